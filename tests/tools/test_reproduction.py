# SPDX-License-Identifier: Apache-2.0
"""The jobs of the reproduction: each runs once, in order, and its row says what it was."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reproduce as command
from reproduction.jobs import PEER, Job, jobs
from reproduction.results import append, done, listed, rewrite, table
from reproduction.schedule import run
from reproduction.work import tell

from models.training import Epoch

Record = Mapping[str, Any]

ASKED = [
    Job("resnet20", "l1", criterion, macs, seed) for seed in range(3) for criterion in ("ccprune", PEER) for macs in (0.5, 0.2)
]


def fake(job: Job) -> Record:
    reached = {"trained": 0.93, "cut": 0.5, "recovered": 0.9, "retrained": 0.92 + job.seed / 100}
    return {
        "name": job.name,
        "data": "fashion-mnist",
        **reached,
        "macs_left": job.macs,
        "params": 1e5,
        "bytes": 4e5,
        "ms": 0.5,
        "speedup": 2.0,
    }


def test_names_tell_all_jobs_apart() -> None:
    every = list(jobs(full=True))
    assert len({job.name for job in every}) == len(every) > len(list(jobs(full=False)))


def ran(asked: list[Job], workers: int = 1, seconds: float = 60.0, work: Callable[[Job], Record] = fake) -> Iterator[Record]:
    """What `run` yields, in threads."""
    with ThreadPoolExecutor(workers) as pool:
        yield from run(asked, seconds, pool, workers, lambda job: None, work)


def test_results_are_found_again_but_for_a_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for job in ASKED[:2]:
        append(path, fake(job))
    path.write_bytes(path.read_bytes()[:-20])  # killed while it wrote the second line
    assert list(done(path)) == [ASKED[0].name]
    append(path, fake(ASKED[1]))
    assert done(path) == {job.name: fake(job) for job in ASKED[:2]}
    rewrite(path, [fake(ASKED[2])])
    assert list(done(path)) == [ASKED[2].name]


@pytest.mark.parametrize("workers", [1, 4])
def test_every_job_runs_once_after_the_one_training_that_it_starts_from(workers: int) -> None:
    events: list[tuple[str, bool]] = []

    def train(job: Job) -> None:
        time.sleep(0.01)
        events.append((job.start, True))

    def work(job: Job) -> Record:
        events.append((job.start, False))
        return fake(job)

    with ThreadPoolExecutor(workers) as pool:
        found = [record["name"] for record in run(ASKED, 60.0, pool, workers, train, work)]
    assert sorted(found) == sorted(job.name for job in ASKED)
    assert found == [job.name for job in ASKED] or workers > 1  # one at a time: the most important first
    starts = {job.start for job in ASKED}
    assert sorted(start for start, training in events if training) == sorted(starts)
    for start in starts:
        assert next(training for name, training in events if name == start)


def test_a_job_that_fails_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def work(job: Job) -> Record:
        if job == ASKED[1]:
            raise ValueError("no such thing")
        return fake(job)

    found = list[str]()
    with pytest.raises(ValueError, match="no such thing"):
        for record in ran(ASKED, work=work):
            found.append(record["name"])
    assert found == [job.name for job in ASKED if job != ASKED[1]]
    assert f"failed: {ASKED[1].name}: no such thing" in capsys.readouterr().out


def test_no_job_is_started_after_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(ran(ASKED[1:], seconds=-1.0)) == []
    assert f"the next job is {ASKED[1].name}" in capsys.readouterr().out


def test_a_training_counts_once_for_all_jobs_that_share_it() -> None:
    lines = list(listed(ASKED[:2], {}))
    minutes = [float(line.split()[0]) for line in lines[:2]]
    assert minutes[0] > minutes[1] + 20
    assert lines[-1] == f"{sum(minutes) / 60:.1f} hours"
    assert next(listed(ASKED[:2], {ASKED[0].name: {}})).startswith("done")


def test_the_table_has_the_median_and_the_range_of_the_seeds() -> None:
    rows = list(table(ASKED, {job.name: fake(job) for job in ASKED if (job.seed, job.macs) != (2, 0.2)}))
    assert len(rows) == 2 + 4
    assert rows[2].startswith(
        "| resnet20 | l1 | ccprune | 50.0% | 15 + 10 | 50.0% | 0.100 M | 0.40 MB | 0.50 ms, 2.00x (2.00-2.00) |"
    )
    assert rows[2].endswith("| 93.00 (93.00-93.00) | 50.00 (50.00-50.00) | 90.00 (90.00-90.00) | 93.00 (92.00-94.00) | 3 |")
    assert rows[3].endswith("| 92.50 (92.00-93.00) | 2 |")


# The command


def write_idx(folder: Path, part: str, count: int) -> None:
    """So many random images of 28 x 28 pixels."""
    rng = np.random.default_rng(count)
    for stem, array in (("images-idx3", rng.integers(0, 256, (count, 28, 28))), ("labels-idx1", rng.integers(0, 10, count))):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / f"{part}-{stem}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command on a small data set."""
    write_idx(tmp_path, "train", 5_300)
    write_idx(tmp_path, "t10k", 200)
    given = ["--data", tmp_path, "--work", tmp_path / "work", "--results", tmp_path / "results.jsonl", "--cpu"]

    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, given), *options])
        command.main()

    return run


def test_a_job_is_trained_cut_measured_and_timed(
    reproduce: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = "resnet20-none-seed0-epochs6-ccprune-50.0%-epochs0"
    reproduce("--subset", "128", "--only", job, "--workers", "1")
    [record] = done(tmp_path / "results.jsonl").values()
    assert (record["name"], record["data"], len(record["held_in_training"])) == (job, "fashion-mnist-first128", 6)
    assert record["macs_left"] == pytest.approx(0.5, abs=0.01)
    folder = tmp_path / "work" / "fashion-mnist-first128"
    assert sorted(path.name for path in folder.iterdir()) == [f"{job}.onnx", "resnet20-none-seed0-epochs6.pt"]
    assert capfd.readouterr().out.count("resnet20-none-seed0-epochs6: epoch ") == 6

    reproduce("--subset", "128", "--only", job)  # it is done
    assert "epoch" not in capfd.readouterr().out
    reproduce("--subset", "128", "--only", job, "--time")
    reproduce("--only", job, "--table")
    assert " ms, " in capfd.readouterr().out.splitlines()[-1]

    with pytest.raises(SystemExit, match=r"holds results of fashion-mnist-first128, not of fashion-mnist; choose another file"):
        reproduce("--only", job)


def test_a_process_whose_parent_was_killed_ends_after_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    for alive, codes in ((True, []), (False, [1])):
        monkeypatch.setattr(multiprocessing, "parent_process", lambda alive=alive: SimpleNamespace(is_alive=lambda: alive))
        tell("job", Epoch(1, 0.5, 0.9, 2.0))
        assert ended == codes
