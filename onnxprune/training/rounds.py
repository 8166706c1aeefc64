# SPDX-License-Identifier: Apache-2.0
"""What the rounds of a loop reached, as a table and a plot, and the files from which a loop resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.errors import OutputError, TrainingError
from onnxprune.figures import new_figure, save_figure
from onnxprune.ir.placing import write_text

RECORD = "rounds.json"
FORMAT = "onnxprune-rounds/1"


@dataclass(frozen=True, slots=True)
class Round:
    """What one round reached.

    Attributes:
        number: 0 for the original.
        macs, params, bytes: cost of the network.
        cut: what `evaluate` gave right after the cut and a recovery without labels; None for the original.
        metric: what it gave after retraining.
        latency_ms, low_ms, high_ms: of one inference in onnxruntime: median, 10th and 90th percentile; None if not measured.
        speedup: relative to the original, timed in turn with it.
        seconds: duration of the round.
    """

    number: int
    macs: int
    params: int
    bytes: int
    cut: float | None
    metric: float
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    speedup: float | None = None
    seconds: float = 0.0


def best_of(rounds: Sequence[Round], floor: float | None) -> Round:
    """The deepest round that keeps to the floor; the original if none does. Without a floor, the last one."""
    return next((r for r in reversed(rounds) if floor is None or r.metric >= floor), rounds[0])


def table(rounds: Iterable[Round]) -> str:
    """A Markdown table of the rounds."""
    found = list(rounds)
    titles = ("round", "MACs", "parameters", "after the cut", "after retraining", "latency (10-90 %)", "speed-up")
    rows = [titles, ("---",) * len(titles), *(_row(r, found[0]) for r in found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(r: Round, original: Round) -> tuple[str, ...]:
    time = "" if r.latency_ms is None else f"{r.latency_ms:.3g} ms ({r.low_ms:.3g}-{r.high_ms:.3g})"
    return (
        str(r.number) if r.number else "original",
        f"{r.macs / max(original.macs, 1):.1%}",
        f"{r.params:,}",
        "" if r.cut is None else f"{r.cut:.4g}",
        f"{r.metric:.4g}",
        time,
        "" if r.speedup is None else f"{r.speedup:.2f}x",
    )


def plot(rounds: Sequence[Round], path: Path) -> None:
    """Draw the metric over MACs, and over latency if it was measured.

    Raises:
        TrainingError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    drawn = {"MACs (millions)": [r.macs / 1e6 for r in rounds]}
    latencies = [r.latency_ms for r in rounds if r.latency_ms is not None]
    if len(latencies) == len(rounds):
        drawn["latency (ms)"] = latencies
    figure = new_figure(4.5 * len(drawn), 4)
    axes = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for ax, (label, values) in zip(axes, drawn.items(), strict=True):
        ax.plot(values, [r.metric for r in rounds], "o-", label="after retraining")
        ax.plot(values[1:], [r.cut for r in rounds[1:]], "o:", color="gray", label="right after the cut")
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("metric")
    axes[0].legend()
    save_figure(figure, path)


@dataclass(frozen=True)
class Journal:
    """The folder of a loop: what it was asked, its rounds, and a checkpoint of each.

    Attributes:
        folder: the folder.
        asked: the settings and a digest of the original's weights; rounds of other settings are not continued.
    """

    folder: Path
    asked: Mapping[str, Any] = field(repr=False)

    def read(self) -> list[Round]:
        """The rounds that are complete.

        Raises:
            TrainingError: the folder holds rounds of other settings, or cannot be read.
        """
        path = self.folder / RECORD
        if not path.exists():
            return []
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            asked, rounds = found["asked"], [Round(**r) for r in found["rounds"]]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise TrainingError(f"{path}: cannot be read ({e}); delete it, or choose another folder") from e
        differs = next((k for k in {**asked, **self.asked} if asked.get(k) != self.asked.get(k)), None)
        if differs is not None:
            was, now = asked.get(differs), self.asked.get(differs)
            what = "the original has other weights" if differs == "weights" else f"{differs} was {was!r}, now {now!r}"
            raise TrainingError(
                f"{self.folder}: holds rounds of other settings: {what}; "
                "choose another folder, or delete this one to start again"
            )
        return rounds

    def open(self) -> list[Round]:
        """Create the folder, or read the rounds that are complete.

        Raises:
            TrainingError: it holds rounds of other settings, or cannot be read.
            OutputError: it cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"{self.folder}: cannot be created: {e.strerror}; choose another folder") from e
        return self.read()

    def add(self, found: Round) -> None:
        """Record a round; its files must be written before.

        Raises:
            OutputError: it cannot be written.
        """
        rounds = [*(r for r in self.read() if r.number < found.number), found]
        content = {"format": FORMAT, "asked": dict(self.asked), "rounds": [asdict(r) for r in rounds]}
        write_text(self.folder / RECORD, json.dumps(content, indent=1) + "\n")

    def checkpoint(self, number: int) -> Path:
        """The file with the module after a round (`load_compact`)."""
        return self.folder / f"round-{number}.pt"

    def model(self, number: int) -> Path:
        """The ONNX file of a round."""
        return self.folder / f"round-{number}.onnx"

    def plan(self, number: int) -> Path:
        """The plan from the original to a round."""
        return self.folder / f"round-{number}.plan.json"
