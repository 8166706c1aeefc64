# SPDX-License-Identifier: Apache-2.0
"""Under load: several at a time give what one gives alone, and a process that prunes again and again does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from tests.cases.commands import files
from tests.cases.nets import small, write
from tests.cases.recovery import data_for

OPTIONS: tuple[dict[str, Any], ...] = (
    {"ratio": 0.5, "recover": "none"},
    {"ratio": 0.3, "recover": "none", "criterion": "l2", "align": "none"},
    {"macs": "60%", "recover": "reconstruct", "work": {}},
    {"ratio": 0.5, "recover": "bias", "criterion": "l1", "work": {}},
)
"""With the work fixed, time decides nothing."""
ROUNDS, WARM = 260, 100
CHILDREN = 8


def bytes_of(options: dict[str, Any]) -> bytes:
    needs = options["recover"] != "none"
    result = onnxprune.prune(small(), bench=False, data=data_for(small()) if needs else None, **options)
    return result.model.SerializeToString() + result.plan.to_json().encode()


def test_several_threads_give_what_one_gives_alone() -> None:
    alone = [bytes_of(options) for options in OPTIONS]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(bytes_of, OPTIONS * 3))
    assert together == alone * 3
    assert len(set(alone)) == len(OPTIONS)


def held() -> tuple[int, int, int]:
    """Pages of memory, open files and threads of this process."""
    own = Path("/proc/self")
    pages = int((own / "statm").read_text().split()[1])
    return pages, len(list((own / "fd").iterdir())), len(list((own / "task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is read from Linux' /proc")
def test_a_process_that_prunes_again_and_again_does_not_grow() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)}
    for k in range(ROUNDS):
        more: dict[str, Any] = {"data": data, "recover": "bias"} if k % 5 == 0 else {"recover": "none"}
        onnxprune.prune(small(), 0.3 + 0.1 * (k % 4), bench=False, **more)
        if k == WARM:
            before = held()
    assert held()[0] < 1.05 * before[0]
    assert held()[1:] <= before[1:]


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    path = write(tmp_path)
    command = [sys.executable, "-m", "onnxprune", str(path), "--ratio", "0.5", "--no-bench", "--recover", "none", "-o"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    # half of them to places of their own, half of them to the same one
    places = [tmp_path / (f"{k}.onnx" if k < CHILDREN // 2 else "same.onnx") for k in range(CHILDREN)]
    runs = [subprocess.Popen([*command, str(p), "--force"], env=environment, stdout=-1, stderr=-1, text=True) for p in places]
    ended = [(run.communicate(), run.returncode) for run in runs]
    assert [(err, status) for (_, err), status in ended] == [("", 0)] * CHILDREN
    found = files(tmp_path)
    assert found.keys() == {"net.onnx", *(p.name for p in places), *(f"{p.stem}.plan.json" for p in places)}
    assert len({found[p.name] for p in places}) == 1
    assert len({found[f"{p.stem}.plan.json"] for p in places}) == 1
