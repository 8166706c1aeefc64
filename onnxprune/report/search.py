# SPDX-License-Identifier: Apache-2.0
"""What a search has found: plain values, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from onnxprune.errors import counted
from onnxprune.version import __version__

FORMAT = "onnxprune-search/1"

STEP = 0.97
"""What is smaller than the next better one by less than three percent is not worth its loss."""
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A cut that was tried.

    Attributes:
        trial: its number; 0 is what `onnxprune MODEL` does with the same targets.
        criterion, scope, normalise: how channels were ranked.
        floor: the fraction of each group that had to be kept.
        share: how much of what may remain was to be used.
        widths: weight -> factor on what its channels keep in trial 0; only those that were to differ.
        loss: what trials are compared by, on the samples of the search, without recovery.
        lost: how much of what the original's outputs tell about the inputs is lost on them, 0 to 1.
        costs: macs, params, size in bytes, memory in bytes, and predicted latency in milliseconds if that is limited.
        kept: what remains of the first target, as a fraction of the original.
        within: whether it holds all targets.
        branches: how many residual branches are gone (`SearchReport.branches` says which).
    """

    trial: int
    criterion: str
    scope: str
    normalise: str | None
    floor: float
    share: float
    widths: Mapping[str, float]
    loss: float
    lost: float
    costs: Mapping[str, float]
    kept: float
    within: bool
    branches: int = 0

    @property
    def settings(self) -> str:
        """What is special about it, in words."""
        more = [f"normalised by {self.normalise}" if self.normalise else "", f"floor {self.floor:.0%}" if self.floor else ""]
        changed = f"{counted(len(self.widths), 'width')} changed" if self.widths else ""
        gone = f"without {self.branches} branch{'es' * (self.branches > 1)}" if self.branches else ""
        return ", ".join(x for x in (self.criterion, self.scope, *more, changed, gone) if x)


@dataclass(frozen=True)
class Point:
    """A candidate that was recovered, and measured on samples that nothing was chosen by.

    Attributes:
        candidate: how it was cut.
        method: how it was recovered.
        loss: what points were compared by, on other samples than those of the search.
        lost, agreement, accuracy: on the held-out samples (see `evaluation.evaluator.Judgement`).
        costs: macs, params, size and memory of the file, and measured latency in milliseconds (none with --no-bench).
        kept: what remains of the first target, as a fraction of the original.
        missed: whether a target or the verification was missed.
        front: whether no other point has a smaller loss and about the same cost, or less.
        output, plan: its files; empty if it was not written.
    """

    candidate: Candidate
    method: str
    loss: float
    lost: float
    agreement: float | None
    accuracy: float | None
    costs: Mapping[str, float]
    kept: float
    missed: bool
    front: bool = True
    output: str = ""
    plan: str = ""


@dataclass(frozen=True)
class SearchReport:
    """What a search has found.

    Attributes:
        asked: what decides the trials: targets, options, and digests of the model and the data.
        model, data: their names.
        targets: option -> what may remain, as stated by the user.
        study, storage: where the trials are kept; no storage: nowhere.
        machine: the one that measured `points`; `made_on`: the one that made the study and its model of the latency.
        trials, failed: number of trials that were judged, and of those that could not be.
        resumed: how many of them had been made before.
        judged, held_out: number of samples that trials were judged on, and that points were.
        measure: what accuracy means; `accuracy`: that of the original on the held-out samples.
        original: its costs, as in `Point`.
        front: trials within the targets of which no other one is both better and smaller.
        tried: (trial, kept, lost) of all trials.
        points: the best, first; then the others of the front, by their costs; then those that were worse.
        branches: the sums of the residual branches that may go, in the order in which they go; none without `depth`.
    """

    asked: Mapping[str, str]
    model: str
    data: str
    targets: Mapping[str, str]
    study: str
    storage: str
    machine: Mapping[str, Any]
    made_on: Mapping[str, Any]
    trials: int
    failed: int
    resumed: int
    judged: int
    held_out: int
    measure: str
    accuracy: float | None
    original: Mapping[str, float]
    front: tuple[Candidate, ...]
    tried: tuple[tuple[int, float, float], ...]
    points: tuple[Point, ...]
    branches: tuple[str, ...] = ()

    @property
    def best(self) -> Point:
        """The most faithful point within the targets; if there is none, the nearest."""
        return self.points[0]

    @property
    def missed(self) -> bool:
        """Whether the best point misses a target."""
        return self.best.missed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, "version": __version__, **asdict(self), "missed": self.missed}

    def to_json(self) -> str:
        """As a file."""
        return json.dumps(self.to_dict(), indent=1)


def front_of(found: Sequence[T], losses: Callable[[T], tuple[float, float]]) -> list[T]:
    """Those of which no other one is as good in both numbers and better in one, by the second number, descending.

    >>> front_of([(0.1, 0.5), (0.2, 0.3), (0.3, 0.4), (0.1, 0.6)], lambda x: x)
    [(0.1, 0.5), (0.2, 0.3)]
    """
    best: list[T] = []
    for one in sorted(found, key=lambda x: losses(x)):
        if not best or losses(one)[1] < losses(best[-1])[1]:
            best.append(one)
    return best


def spaced(front: Sequence[T], kept: Callable[[T], float]) -> list[T]:
    """Those of a front that are clearly smaller than the one before.

    >>> spaced([0.5, 0.49, 0.4, 0.39, 0.3], lambda x: x)
    [0.5, 0.4, 0.3]
    """
    found: list[T] = []
    for one in front:
        if not found or kept(one) <= STEP * kept(found[-1]):
            found.append(one)
    return found
