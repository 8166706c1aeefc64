#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Up to which mismatch with the BatchNorm statistics made-up inputs may be fitted to, by what real inputs say.

usage: python tools/border.py [TRUTH.jsonl] [--measure mismatch|worst|late] [--price 3] [--tie 0.01] [--brief]
TRUTH.jsonl holds the ways `none`, `made...` and `bias` of `truth.py`. Weights are fitted to made-up inputs if their mismatch is
up to the border. Fitting harms if the metric falls by more than TIE below that of the cut alone, and gains if it rises by more
than TIE. The border maximises what is gained; harm counts PRICE times. It is chosen once for each family of networks, without
this family, which is then judged by it. Prints Markdown: a row per cut with its miss, if any; a row per range of the measure;
the misses by each measure, and the border chosen on all.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trained.registry import CACHE
from truth import known

MEASURES = ("mismatch", "worst", "late")
BANDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
ENOUGH = 0.5
"""BatchNorm must follow this fraction of the linear layers, or its statistics do not describe the network."""


@dataclass(frozen=True)
class Rule:
    """How much a difference counts: `tie` is none at all, harm counts `price` times."""

    tie: float = 0.01
    price: float = 3.0

    def worth(self, change: float) -> float:
        """What a change of the metric is worth."""
        return 0.0 if abs(change) <= self.tie else change * (self.price if change < 0 else 1.0)


@dataclass(frozen=True)
class Cut:
    """One network at one ratio: its metric after each way, and how well made-up inputs fit it.

    Attributes:
        fits: by measure; empty if the network has too few BatchNorm statistics.
        none, bias, made, original: values of the metric; `bias` may be unknown.
        errors: of the varying part, for `none` and `made`.
    """

    name: str
    family: str
    ratio: float
    fits: dict[str, float]
    none: float
    bias: float | None
    made: float
    original: float
    errors: tuple[float, float]

    @property
    def change(self) -> float:
        """What fitting to made-up inputs does to the metric of the cut alone."""
        return self.made - self.none

    def kept(self, measure: str, border: float) -> bool:
        """Whether a border lets weights be fitted."""
        return self.fits.get(measure, math.inf) <= border

    def miss(self, measure: str, border: float, rule: Rule) -> str:
        """In words; empty if the border is right."""
        if self.kept(measure, border):
            return "kept, although worse" if self.change < -rule.tie else ""
        return "not kept, although better" if self.change > rule.tie else ""


def cuts(rows: Sequence[dict[str, Any]]) -> list[Cut]:
    """The cuts for which `none` and `made` are known, best fit first."""
    found: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["truth"]:
            found.setdefault((row["name"], row["ratio"]), {})[row["way"]] = row
    pairs = [(ways, kind) for ways in found.values() if "none" in ways for kind in ways if kind.startswith("made")]
    return sorted((_cut(ways, kind) for ways, kind in pairs), key=lambda c: (c.fits.get("mismatch", math.inf), c.name, c.ratio))


def _cut(ways: dict[str, dict[str, Any]], kind: str) -> Cut:
    row, fit = ways[kind], ways[kind]["made"]
    known_fit = fit["mismatch"] is not None and fit["layers"] >= ENOUGH * fit["linear"]
    none, made, bias = ways["none"]["truth"], row["truth"], ways.get("bias")
    return Cut(
        row["name"] + kind.removeprefix("made").replace("-", ", "),
        row["family"],
        row["ratio"],
        {m: fit[m] for m in MEASURES} if known_fit else {},
        none["metric"],
        bias["truth"]["metric"] if bias else None,
        made["metric"],
        none["original"],
        (none["error"], made["error"]),
    )


def border_of(found: Sequence[Cut], measure: str, rule: Rule) -> float:
    """The border of highest worth: in the middle, on a logarithmic scale, of all that are equally good."""
    values = sorted({c.fits[measure] for c in found if measure in c.fits})
    if not values:
        return 0.0
    borders = [values[0] / 2, *np.sqrt(np.multiply(values[1:], values[:-1])), 2 * values[-1]]
    worths = [sum(rule.worth(c.change) for c in found if c.kept(measure, b)) for b in borders]
    best = [b for b, w in zip(borders, worths, strict=True) if w >= max(worths) - 1e-9]
    return float(np.sqrt(best[0] * best[-1]))


def left_out(found: Sequence[Cut], measure: str, rule: Rule) -> dict[str, float]:
    """Family -> the border that the other families choose."""
    families = dict.fromkeys(c.family for c in found if c.fits)
    return {f: border_of([c for c in found if c.family != f], measure, rule) for f in families}


def table(found: Sequence[Cut], measure: str, rule: Rule) -> Iterator[str]:
    """A row per cut."""
    borders = left_out(found, measure, rule)
    yield f"| network | {measure} | ratio | original | none | bias | made | error: none, made | border by others | miss |"
    yield "|---" * 10 + "|"
    for c in found:
        border = borders.get(c.family, 0.0)
        fit = f"{c.fits[measure]:.3f}" if c.fits else "no statistics"
        values = " | ".join("" if v is None else f"{v:.1%}" for v in (c.original, c.none, c.bias, c.made))
        errors = ", ".join(f"{e:.2f}" for e in c.errors)
        yield f"| {c.name} | {fit} | {c.ratio} | {values} | {errors} | {border:.3f} | {c.miss(measure, border, rule)} |"


def bands(found: Sequence[Cut], measure: str, rule: Rule) -> Iterator[str]:
    """A row per range of the measure: how many cuts gain and how many are harmed."""
    yield f"| {measure} | cuts | gain | harmed | change of the metric: median | worst | error after / before: median | worst |"
    yield "|---" * 8 + "|"
    for low, high in zip((0.0, *BANDS), (*BANDS, math.inf), strict=True):
        those = [c for c in found if c.fits and low < c.fits[measure] <= high]
        if those:
            changes, ratios = [c.change for c in those], [c.errors[1] / c.errors[0] for c in those]
            counts = f"{len(those)} | {sum(x > rule.tie for x in changes)} | {sum(x < -rule.tie for x in changes)}"
            figures = f"{np.median(changes):+.1%} | {min(changes):+.1%} | {np.median(ratios):.2f} | {max(ratios):.2f}"
            yield f"| {low:g} to {high:g} | {counts} | {figures} |"


def summary(found: Sequence[Cut], rule: Rule) -> Iterator[str]:
    """A row per measure: the border chosen on all cuts, and the misses when it is chosen without the family."""
    yield "| measure | border | borders without one family | kept, although worse | not kept, although better |"
    yield "|---" * 5 + "|"
    judged = [c for c in found if c.fits]
    for measure in MEASURES:
        borders = left_out(judged, measure, rule)
        misses = [c.miss(measure, borders[c.family], rule) for c in judged]
        counts = [sum(m.startswith(start) for m in misses) for start in ("kept", "not")]
        span = f"{min(borders.values(), default=0):.3f} to {max(borders.values(), default=0):.3f}"
        yield f"| {measure} | {border_of(judged, measure, rule):.3f} | {span} | {counts[0]} | {counts[1]} of {len(judged)} |"


def verdict(found: Sequence[Cut], measure: str, rule: Rule) -> Iterator[str]:
    """What the border keeps of what always fitting would gain, and the largest loss against the cut alone."""
    border = border_of([c for c in found if c.fits], measure, rule)
    for title, those in (("with statistics", [c for c in found if c.fits]), ("all networks", list(found))):
        gain = sum(c.change for c in those if c.change > 0)
        kept = [(c.change if c.kept(measure, border) else 0.0, c) for c in those]
        most, where = min(kept, key=lambda pair: pair[0], default=(0.0, None))
        name = f" ({where.name} at {where.ratio})" if where and most < 0 else ""
        always = min((c.change for c in those), default=0.0)
        yield (
            f"- {title}: a {measure} up to {border:.3f} keeps {sum(k for k, _ in kept):.2f} of the {gain:.2f} that fitting "
            f"gains where it gains; largest loss {-most:.1%}{name}, if always fitted {-always:.1%}"
        )
    # a cut appears once per kind of made-up inputs, which bias does not use
    once = {(c.name.split(",")[0], c.ratio): c.bias - c.none for c in found if c.bias is not None}
    bias = list(once.values())
    worse, better = sum(b < -rule.tie for b in bias), sum(b > rule.tie for b in bias)
    lost = f"largest loss {-min(bias, default=0):.1%}, worse in {worse} and better in {better} of {len(bias)} cuts"
    yield f"- bias against none: {sum(bias):+.2f} in sum, {lost}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", nargs="?", type=Path, default=CACHE / "truth.jsonl")
    parser.add_argument("--measure", choices=MEASURES, default=MEASURES[0])
    parser.add_argument("--price", type=float, default=Rule.price, help="how many times harm counts")
    parser.add_argument("--tie", type=float, default=Rule.tie, help="smallest difference of the metric that counts")
    parser.add_argument("--brief", action="store_true", help="no row per cut")
    options = parser.parse_args()
    found, rule = cuts(known(options.truth)), Rule(options.tie, options.price)
    if not found:
        parser.error(f"{options.truth}: no cut with the ways none and made; run tools/truth.py first")
    first = () if options.brief else (table(found, options.measure, rule),)
    parts = (*first, bands(found, options.measure, rule), summary(found, rule), verdict(found, options.measure, rule))
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
