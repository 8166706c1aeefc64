# SPDX-License-Identifier: Apache-2.0
"""Damaged and odd inputs, in a small number; and whether the fuzzer notices what it looks for."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pytest
from fuzzing.cases import Case
from fuzzing.child import CRASHED, Ended, forked
from fuzzing.mutation import mutant
from fuzzing.outcome import SEVERE, Row, judged, place_of, tables
from fuzzing.running import snapshot
from fuzzing.seeds import made, seeds
from onnx import ModelProto

from tests.cases.running import random_feeds, runner

MODELS = 300
OTHERS = {"plans": 40, "options": 40, "data": 15, "images": 10}
"""Numbers of mutants that are run here: what one processor does in about a minute; a night takes 20,000."""
SCRIPT = Path(fuzz.__file__)


@pytest.mark.parametrize(("kind", "count"), [("models", MODELS), *OTHERS.items()])
def test_no_input_breaks_the_program(kind: str, count: int, tmp_path: Path) -> None:
    words = [kind, "--count", str(count), "--jobs", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    rows = fuzz.read(tmp_path / f"{kind}.jsonl")
    assert len(rows) == count, done.stderr
    assert any(row.done for row in rows)
    assert any(row.outcome == "refused" for row in rows)
    assert not [row.as_json() for row in rows if set(row.faults) & set(SEVERE)], done.stdout


def test_nearly_all_seeds_run() -> None:
    def runs(model: ModelProto) -> bool:
        try:
            return bool(runner(model)(random_feeds(model, np.random.default_rng(0), 2)))
        except Exception:
            return False

    assert len(seeds()) > 90
    assert sum(runs(make()) for make in seeds().values()) > 0.9 * len(seeds())


def digest(names: list[str]) -> str:
    found = hashlib.sha256()
    for name in names:
        case = mutant(name, 0, lambda: made("residual"), b"other")
        found.update(repr((sorted(case.files.items()), case.arguments, case.what)).encode())
    return found.hexdigest()


def test_a_mutant_is_always_the_same() -> None:
    names = [f"residual/{k}" for k in range(60)]
    code = f"import sys; sys.path[:0] = {sys.path!r}; from tests.tools.test_fuzz import digest; print(digest({names!r}))"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert said.stdout.strip() == digest(names)
    assert len({mutant(n, 0, lambda: made("residual"), b"").files["m.onnx"] for n in names}) > 50


def child(run: Callable[[], int], folder: Path) -> Ended:
    return forked(run, folder, folder / "talk", seconds=3, memory=10**9)


def waits() -> int:
    time.sleep(60)
    return 0


def grows() -> int:
    kept = []
    while True:
        kept.append(b"x" * 10**8)


def dies() -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def fails() -> int:
    raise ValueError("no")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_limits_signals_and_exceptions_are_noticed(tmp_path: Path) -> None:
    assert child(waits, tmp_path).killed == "hang"
    assert child(grows, tmp_path).killed == "memory"
    assert child(dies, tmp_path).killed == "SIGSEGV"
    crashed = child(fails, tmp_path)
    assert crashed.status == CRASHED
    assert "ValueError: no" in crashed.err
    assert child(lambda: 2, tmp_path).status == 2


GOOD = Case("models/m/0", "", {"m.onnx": b"m"}, ("m.onnx", "--ratio", "0.5"))
MESSAGE = "onnxprune: m.onnx: no\n"


def faults(status: int, err: str = "", after: dict[str, str] | None = None, killed: str = "", case: Case = GOOD) -> list[str]:
    before = {"m.onnx": "file 1"}
    return judged(case, Ended(status, killed, 1.0, "", err), before, after or before, []).faults


def test_every_fault_is_told() -> None:
    written = {"m.onnx": "file 1", "m.pruned.onnx": "file 2"}
    assert faults(0, after=written) == []
    assert faults(2, MESSAGE) == []
    assert faults(2, MESSAGE, written) == ["foreign file"]
    assert faults(0, after={**written, "other": "file 3"}) == ["foreign file"]
    assert faults(0, after={"m.onnx": "file 9"}) == ["input changed"]
    assert faults(2, MESSAGE + "more\n") == ["several lines"]
    assert faults(2, MESSAGE[:-1] + "x" * 300) == ["long line"]
    assert faults(2, "onnxprune: \x1b[31mred\n") == ["control characters"]
    assert faults(2, "onnxprune: internal error, nothing was written: KeyError: 1\n") == ["internal error"]
    assert "traceback" in faults(CRASHED, "Traceback (most recent call last)\n")
    assert faults(-1, killed="SIGSEGV") == ["signal"]
    assert faults(-1, killed="hang") == ["hang"]
    assert faults(3) == ["status"]


def test_only_force_replaces_and_only_files() -> None:
    given = Case("options/0", "", {}, ("m.onnx", "-o", "out.onnx"))
    forced = Case("options/0", "", {}, (*given.arguments, "--force"))
    ended = Ended(0, "", 1.0, "", "")
    for was, case, expected in (("file 1", given, True), ("file 1", forced, False), ("kind 4096", forced, True)):
        changed = "input changed" in judged(case, ended, {"out.onnx": was}, {"out.onnx": "file 2"}, []).faults
        assert changed == expected


def test_the_place_of_an_exception() -> None:
    frames = ('File "/a/onnxprune/ir/graph.py", line 7, in facts', 'File "/lib/numpy/a.py", line 1, in f')
    text = "\n  ".join(("Traceback", *frames)) + "\nKeyError: 3\n"
    assert place_of(text) == "KeyError at ir/graph.py:7 facts"
    assert place_of("nothing") == ""


def test_a_row_is_a_line_and_the_table_counts(tmp_path: Path) -> None:
    row = Row("models/m/0", "a\nb", ["m.onnx"], 2, "internal error", ["internal error"], runs=True, where="KeyError at a:1 f")
    lines = tmp_path / "models.jsonl"
    lines.write_text(row.as_json() + "\n" + row.as_json()[:20], encoding="utf-8")
    assert fuzz.read(lines) == [row]
    assert "| internal error | 1 |" in "\n".join(tables([row]))


def test_pipes_and_links_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b")
    assert [v.split()[0] for v in snapshot(tmp_path).values()] == ["link", "kind"]
