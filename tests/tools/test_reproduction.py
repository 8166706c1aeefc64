# SPDX-License-Identifier: Apache-2.0
"""The jobs of the reproduction: each runs once, in order, and its row says what it was."""

from pathlib import Path
from typing import Any

import pytest
from reproduction.jobs import PEER, Job, jobs
from reproduction.results import append, done, listed, run, table

ASKED = [
    Job("resnet20", "l1", criterion, macs, seed) for seed in range(3) for criterion in ("ccprune", PEER) for macs in (0.5, 0.2)
]


def fake(job: Job) -> dict[str, Any]:
    reached = {"trained": 0.93, "cut": 0.5, "recovered": 0.9, "retrained": 0.92 + job.seed / 100}
    return {"name": job.name, **reached, "macs_left": job.macs, "params": 1e5, "bytes": 4e5, "ms": 0.5, "speedup": 2.0}


def test_names_tell_all_jobs_apart() -> None:
    every = list(jobs(full=True))
    assert len({job.name for job in every}) == len(every) > len(list(jobs(full=False)))


def test_a_job_that_is_done_or_half_written_is_treated_as_such(tmp_path: Path) -> None:
    path, ran = tmp_path / "results.jsonl", list[Job]()

    def work(job: Job) -> dict[str, Any]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(job)
        return fake(job)

    with pytest.raises(KeyboardInterrupt):
        run(ASKED, path, 1.0, work)
    path.write_bytes(path.read_bytes()[:-20])  # killed while it wrote the second line
    run(ASKED, path, 1.0, lambda job: ran.append(job) or fake(job))  # type: ignore[func-returns-value]
    assert ran == [ASKED[0], ASKED[1], *ASKED[1:]]
    assert set(done(path)) == {job.name for job in ASKED}


def test_no_job_is_started_after_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    append(path, fake(ASKED[0]))
    run(ASKED, path, -1.0, fake)
    assert list(done(path)) == [ASKED[0].name]
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
    assert rows[2].startswith("| resnet20 | l1 | ccprune | 50.0% | 15 + 10 | 50.0% | 0.100 M | 0.40 MB | 0.50 ms (2.00x) |")
    assert rows[2].endswith("| 93.00 (93.00-93.00) | 50.00 (50.00-50.00) | 90.00 (90.00-90.00) | 93.00 (92.00-94.00) | 3 |")
    assert rows[3].endswith("| 92.50 (92.00-93.00) | 2 |")
