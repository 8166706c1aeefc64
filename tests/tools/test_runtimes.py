# SPDX-License-Identifier: Apache-2.0
"""Files and releases: what a probe says, and how the table tells it."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import runtimes
from neighbours import probe
from runtimes import cell, environment, failures, lines, probed, products, unified

FAILED = {"error": "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:/a/b.cc:1 f(const g&) unsupported"}


def run(**figures: float) -> dict[str, float]:
    return {"difference": 0.0, "latency": 1.0, "load": 2.0, **figures}


def test_a_cell_tells_latency_failure_and_wrong_outputs() -> None:
    assert cell([run(), run(latency=1.5), run(latency=1.1)]) == "1.10 (1.00-1.50)"
    assert cell([run(difference=0.2)]) == "1.00, off by 2e-01"
    assert cell([FAILED]) == "no"


def test_failures_are_told_without_paths() -> None:
    assert list(failures("net", {"1.20": [{"a": FAILED}], "1.32": [{"a": run()}]})) == ["- net, a, 1.20: unsupported"]


def test_a_row_names_every_release() -> None:
    model = products(64, 32, 10)
    assert next(lines("net", {"numbers": model, "a": model}, {"1.20": [{"a": FAILED}], "1.32": [{"a": run()}]})).endswith(
        "| no | 1.00 |"
    )


def test_codes_of_all_types_are_compared_with_the_same_weights_as_numbers(tmp_path: Path) -> None:
    files = unified(products(64, 32, 10), "32", all_layers=True)
    assert {f"{kind} codes" for kind in ("INT8", "INT4", "INT2")} | {"numbers", "INT4 codes, fused"} <= set(files)
    plain = {name: one for name, one in files.items() if "fused" not in name}
    (found,) = probed(Path(sys.executable), tmp_path, plain, 1)
    assert all(found[name]["difference"] < runtimes.ROUNDING for name in plain if name != "numbers")


def test_a_probe_goes_on_after_a_file_that_is_not_loaded(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(products(64, 32, 10), good)
    bad.write_bytes(b"not a model")
    feeds = {"x": np.zeros((1, 64), np.float32)}
    found = probe.compared([str(good), str(bad), str(good)], feeds, rounds=2, loads=2)
    assert "error" in found[str(bad)]
    assert found[str(good)]["difference"] == 0


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "1.32.0" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr("subprocess.run", None)
    assert environment(tmp_path, "1.32.0") == python
