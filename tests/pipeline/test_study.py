# SPDX-License-Identifier: Apache-2.0
"""Studies: what one process leaves, others go on with, however it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.errors import OptionError, OutputError
from onnxprune.pipeline import study as module
from onnxprune.pipeline.study import ERROR, Choice, Study, Tried
from onnxprune.report.search import front_of

CHOICES: dict[str, tuple[Choice, ...]] = {f"p{k}": (0.0, 1.0, 2.0, 3.0) for k in range(6)}
USUAL = dict.fromkeys(CHOICES, 0.0)
ASKED = {"model": "m", "target": "t"}


def objective(params: Mapping[str, Choice]) -> tuple[tuple[float, ...], dict[str, Any]]:
    """Small where all parameters are 2; the second aim is the first parameter."""
    values = [float(x or 0) for x in params.values()]
    return (sum((x - 2) ** 2 for x in values), values[0]), {}


def begun(storage: str | None, seed: int = 0, asked: Mapping[str, str] = ASKED) -> Study:
    study = Study(storage, "s", seed)
    study.begin(asked, lambda: (CHOICES, Tried(0, USUAL, objective(USUAL)[0], {}), {"made": 1}), lambda choices: [])
    return study


def tried(study: Study) -> list[dict[str, Choice]]:
    return [dict(t.params) for t in study.tried()]


def test_trials_repeat_with_the_same_seed_also_if_the_search_was_stopped(tmp_path: Path) -> None:
    whole, other, parts = begun(None), begun(None, seed=1), str(tmp_path / "j")
    for _ in range(12):
        whole.run(CHOICES, objective)
        other.run(CHOICES, objective)
        begun(parts).run(CHOICES, objective)
    assert tried(begun(parts)) == tried(whole)
    assert tried(other) != tried(whole)
    assert len({str(p) for p in tried(whole)}) == 13, "no trial is made twice"


def test_trials_come_closer_to_what_is_aimed_at() -> None:
    study = begun(None)
    for _ in range(80):
        study.run(CHOICES, objective)
    losses = [t.values[0] for t in study.tried()]
    assert losses[0] == 24
    assert min(losses) <= 4


def test_a_trial_that_is_stopped_is_made_again_and_one_that_fails_is_not() -> None:
    study, asked = begun(None), list[Mapping[str, Choice]]()

    def stopped(params: Mapping[str, Choice]) -> Any:
        asked.append(params)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(CHOICES, stopped)
    study.run(CHOICES, objective)
    assert tried(study)[1] == asked[0]
    assert study.failed() == 0
    study.run(CHOICES, lambda params: ((), {ERROR: "cannot be cut"}))
    study.run(CHOICES, objective)
    assert (len(tried(study)), study.failed()) == (3, 1)


def test_of_processes_that_begin_together_the_first_decides(tmp_path: Path) -> None:
    place, made = str(tmp_path / "j"), list[Any]()

    def make(number: int) -> Any:
        if number == 1:  # the other one is quicker
            made.append(one(2))
        return CHOICES, Tried(0, USUAL, (1.0, 1.0), {}), {"made": number}

    def one(number: int) -> Mapping[str, Any]:
        return Study(place, "s", 0).begin(ASKED, lambda: make(number), lambda choices: [{**USUAL, "p1": 3.0}])

    assert one(1) == {"made": 2} == made[0]
    study = Study(place, "s", 0)
    assert len(study.tried()) == 1
    study.run(CHOICES, objective)
    assert tried(study)[1]["p1"] == 3.0, "what is in line comes first, once"
    study.run(CHOICES, objective)
    assert tried(study)[2] != tried(study)[1]


def test_a_study_for_something_else_is_refused(tmp_path: Path) -> None:
    begun(str(tmp_path / "j"))
    with pytest.raises(OptionError, match="was made with another target; choose another"):
        Study(str(tmp_path / "j"), "s", 0).check({"target": "u"})
    with pytest.raises(OptionError, match="another model"):
        begun(str(tmp_path / "j"), asked={**ASKED, "model": "n"})


WORKER = """
    import os, sys, time
    from onnxprune.pipeline import study as module
    from tests.pipeline.test_study import CHOICES, begun, objective
    study = begun(sys.argv[1])
    def slow(params):
        print(*params.values(), flush=True)
        time.sleep(60)
    if sys.argv[2] == "lock":
        lock = module._Lock(sys.argv[1])
        lock.acquire()
        with open(sys.argv[1], "ab") as file:
            file.write(b'{"op_code": 5, "study')
        print("locked", flush=True)
        time.sleep(60)
    study.run(CHOICES, slow)
"""


def killed(place: Path, what: str) -> str:
    """What a process said before it was killed in the middle of its work."""
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(place), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    return said


def test_a_process_that_is_killed_in_a_trial_holds_nobody_up(tmp_path: Path) -> None:
    place = tmp_path / "j"
    params = [float(x) for x in killed(place, "trial").split()]
    start, study = time.monotonic(), begun(str(place))
    for _ in range(4):
        study.run(CHOICES, objective)
    assert time.monotonic() - start < 10
    assert params in [list(p.values()) for p in tried(study)[1:]], "what it was working on is done by others"
    assert len(tried(study)) == 5


def test_a_process_that_is_killed_while_it_writes_holds_nobody_up(tmp_path: Path) -> None:
    place = tmp_path / "j"
    assert killed(place, "lock") == "locked\n"
    assert not place.read_bytes().endswith(b"\n")
    start = time.monotonic()
    begun(str(place)).run(CHOICES, objective)
    assert time.monotonic() - start < 10
    assert len(tried(begun(str(place)))) == 2


def test_a_trial_of_another_machine_is_given_up_after_far_more_than_the_usual_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, now = str(tmp_path / "j"), [0.0]
    study = begun(place)
    monkeypatch.setattr(module, "_worker", lambda: "elsewhere:1")
    monkeypatch.setattr(study, "_give_up", lambda trial: None)  # as if it had been cut off

    def lost(params: Mapping[str, Choice]) -> Any:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        study.run(CHOICES, lost)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = begun(place)
    for now[0] in (0.0, module.PATIENCE - 1):
        first.run(CHOICES, objective)
        assert all(t.number != 1 for t in first.tried())
    waiting = first._all()[1].params
    now[0] = module.PATIENCE + 1
    first.run(CHOICES, objective)
    assert tried(first)[-1] == waiting


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        ("HERE/text", "cannot be opened"),
        ("HERE/json", "cannot be opened"),
        ("HERE/no/j", "no such folder"),
        ("sqlite:///HERE/no/s.db", "unable to open database file"),
        ("nonsense://u:secret@h/d", "cannot be opened"),
    ],
)
def test_a_storage_that_is_not_there_is_one_line_without_a_password(storage: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("some text\n")
    (tmp_path / "json").write_text('{"a": 1}\n')
    with pytest.raises((OptionError, OutputError), match=why) as error:
        place = storage.replace("HERE", str(tmp_path))
        module.check_storage(place)
        Study(place, "s", 0)
    assert "\n" not in error.value.message
    assert "secret" not in error.value.message


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 's.db'}"
    for _ in range(3):
        begun(place).run(CHOICES, objective)
    assert len(tried(begun(place))) == 4


def test_the_front_is_what_nothing_else_beats() -> None:
    points = [(float(a), float(b)) for a, b in np.random.default_rng(0).integers(0, 12, (60, 2))]
    front = front_of(points, lambda p: p)

    def beaten(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)

    assert set(front) == {p for p in points if not beaten(p)}
    assert [p[1] for p in front] == sorted((p[1] for p in front), reverse=True)
