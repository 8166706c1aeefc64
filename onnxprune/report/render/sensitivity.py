# SPDX-License-Identifier: Apache-2.0
"""Sensitivities as a table, and as a picture of curves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.errors import counted
from onnxprune.figures import new_figure, save_figure
from onnxprune.report.render.table import PLAIN
from onnxprune.report.sensitivity import Curve, Sensitivity

NAMED = 10
"""Groups that the picture names: those that lose most."""


def sensitivity_parts(found: Sensitivity) -> Iterator[RenderableType]:
    """The table, the group that loses most first."""
    yield Text.assemble(("onnxprune sensitivity ", "bold"), found.model)
    ratios = sorted({p.ratio for c in found.curves for p in c.points})
    table = Table("group", "channels", "of the MACs", *(f"{r:.0%} removed" for r in ratios), **PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    for curve in by_loss(found):
        losses = {p.ratio: p.loss for p in curve.points}
        cells = [f"{losses[r]:.2%}" if r in losses else "" for r in ratios]
        table.add_row(curve.group, f"{curve.channels:,}", f"{curve.share_of_macs:.1%}", *cells)
    yield table
    where = f"on {counted(found.samples, 'sample')} ({found.data})"
    yield Text(f"lost {found.what}, {where}, if a group alone is cut and nothing is recovered")


def by_loss(found: Sensitivity) -> list[Curve]:
    """The groups that lose most first."""
    return sorted(found.curves, key=lambda c: -max((p.loss for p in c.points), default=0.0))


def draw(found: Sensitivity, path: Path) -> None:
    """A curve per group: what is lost over the fraction of its channels that is removed.

    Raises:
        OutputError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for k, curve in enumerate(by_loss(found)):
        points = sorted(curve.points, key=lambda p: p.ratio)
        x, y = [0.0, *(p.ratio for p in points)], [0.0, *(100 * p.loss for p in points)]
        named = {"label": curve.group} if k < NAMED else {"color": "0.8", "zorder": 0}
        axes.plot(x, y, marker="o", markersize=3, linewidth=1, **named)
    lost = f"lost, % ({found.what.removeprefix('of ')})"
    axes.set(xlabel="fraction of the channels of one group that is removed", ylabel=lost)
    axes.set_title(f"{Path(found.model).name}, {found.samples} samples", fontsize=10)
    axes.legend(fontsize=7, title="groups that lose most; others grey", title_fontsize=7)
    save_figure(figure, path)
