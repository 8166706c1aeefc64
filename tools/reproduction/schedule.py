# SPDX-License-Identifier: Apache-2.0
"""Which job runs when: the most important first, side by side, and each after the training that it starts from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any

from reproduction.jobs import Job


@dataclass
class Schedule:
    """Jobs that wait, and the networks that they start from.

    Attributes:
        left: jobs that were not started, the most important first.
        training: names of networks whose training was started.
        trained: names of networks that are trained.
    """

    left: list[Job]
    training: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)

    def following(self) -> tuple[Job, bool] | None:
        """The first job that can start, and whether only its training can; None if all wait for trainings."""
        for job in self.left:
            if job.start in self.trained:
                self.left.remove(job)
                return job, False
            if job.start not in self.training:
                self.training.add(job.start)
                return job, True
        return None


def run(
    asked: Iterable[Job],
    seconds: float,
    pool: Executor,
    workers: int,
    train: Callable[[Job], object],
    work: Callable[[Job], Mapping[str, Any]],
) -> Iterator[Mapping[str, Any]]:
    """Run jobs, and yield each result when it is there. Where one fails, the others go on.

    Args:
        asked: the most important first.
        seconds: nothing is started after this time.
        pool: what runs `train` and `work`.
        workers: how many run at a time.
        train: trains the network that a job starts from, unless that was done.
        work: runs a job, whose network is trained.

    Raises:
        Exception: the first failure, at the end.
    """
    end, schedule, failed = time.monotonic() + seconds, Schedule(list(asked)), list[BaseException]()
    running: dict[Future[Any], tuple[Job, bool]] = {}
    while True:
        while len(running) < workers and time.monotonic() < end and (task := schedule.following()):
            job, training = task
            running[pool.submit(train if training else work, job)] = task
        if not running:
            break
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, training = running.pop(future)
            if (error := future.exception()) is not None:
                failed.append(error)
                print(f"failed: {job.start if training else job.name}: {error}", flush=True)
            elif training:
                schedule.trained.add(job.start)
            else:
                yield future.result()
    if failed:
        raise failed[0]
    if schedule.left:
        print(f"{seconds / 3600:g} hours are over; the next job is {schedule.left[0].name}")
