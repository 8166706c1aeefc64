# SPDX-License-Identifier: Apache-2.0
"""What each group of channels is worth: plain values, as JSON, CSV, and as ratios of layers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError
from onnxprune.ir.texts import text_of
from onnxprune.version import __version__

FORMAT = "onnxprune-sensitivity/1"
COLUMNS = ("group", "channels", "share_of_macs", "ratio", "width", "lost", "agreement", "accuracy", "loss")


@dataclass(frozen=True, slots=True)
class Point:
    """A group cut alone to one width.

    Attributes:
        ratio: the fraction of its channels that was to be removed.
        width: the number of channels that are kept.
        lost: how much of what the outputs tell about the inputs is lost, 0 to 1 (see `evaluation.measure`).
        agreement: share of samples whose best class is still the original's; None if no output scores classes.
        accuracy: value of the metric, or share of right labels; None without either.
        loss: what `--max-loss` limits: points of accuracy, a share of the metric, or of the original's answers.
    """

    ratio: float
    width: int
    lost: float
    agreement: float | None
    accuracy: float | None
    loss: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A group, by the first weight that produces its channels; its share of the multiply-accumulates; and its cuts."""

    group: str
    channels: int
    share_of_macs: float
    points: tuple[Point, ...]

    def ratio_within(self, most: float) -> float:
        """The largest ratio up to which no cut loses more than `most`; 0 if even the smallest does."""
        found = 0.0
        for point in sorted(self.points, key=lambda p: p.ratio):
            if point.loss > most:
                break
            found = point.ratio
        return found


@dataclass(frozen=True)
class Sensitivity:
    """What each group of channels is worth.

    Attributes:
        asked: what decides the figures: the model's and the data's digests, the criterion, the ratios, the number of samples.
        model, data: their names.
        samples: number of samples.
        measure: what accuracy means.
        accuracy: that of the original; None without labels or metric.
        what: what `Point.loss` is.
        curves: one per group, in graph order.
    """

    asked: Mapping[str, Any]
    model: str
    data: str
    samples: int
    measure: str
    accuracy: float | None
    what: str
    curves: tuple[Curve, ...]

    def to_json(self) -> str:
        """As a file that `read` reads."""
        return json.dumps({"format": FORMAT, "version": __version__, **asdict(self)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Sensitivity:
        """Read a file.

        Raises:
            DataError: it is none.
        """
        try:
            given = json.loads(text_of(path))
            if given.pop("format") != FORMAT:
                raise ValueError
            given.pop("version", None)
            curves = tuple(Curve(**{**c, "points": tuple(Point(**p) for p in c["points"])}) for c in given.pop("curves"))
            return cls(**given, curves=curves)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise DataError(f"{path}: is no result of 'onnxprune sensitivity' ({FORMAT}); choose another file") from e

    def to_csv(self) -> str:
        """A line per cut."""
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(COLUMNS)
        for c in self.curves:
            for p in c.points:
                known = ("" if x is None else f"{x:.6g}" for x in (p.lost, p.agreement, p.accuracy, p.loss))
                rows.writerow([c.group, c.channels, f"{c.share_of_macs:.6g}", f"{p.ratio:g}", p.width, *known])
        return out.getvalue()

    def to_toml(self, most: float) -> str:
        """Floors for `--layer-ratios`: no group loses more than a cut of it alone may, which is `most`."""
        allowed = f"at most {100 * most:.4g} % ({self.what.removeprefix('of ')}, on {self.samples} samples)"
        lines = [f"# {self.model}: each group cut alone loses {allowed}"]
        lines += [f"{json.dumps(c.group)} = {{keep_at_least = {1 - c.ratio_within(most):.4g}}}" for c in self.curves]
        return "\n".join(lines) + "\n"
