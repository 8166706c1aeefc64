# SPDX-License-Identifier: Apache-2.0
"""The profile of a machine as a table, and as a picture of staircases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.cost.machine import Machine
from onnxprune.cost.profile import DECISIVE, Profile
from onnxprune.cost.stacks import KINDS, PRECISIONS
from onnxprune.cost.staircase import Curve
from onnxprune.errors import counted
from onnxprune.figures import new_figure, save_figure
from onnxprune.report.render.table import PLAIN

SHOWN = (32, 33, 36, 40, 48, 49, 64)
"""Widths in the table: on both sides of a step, and on multiples of 4, 8 and 16."""


def profile_parts(found: Profile) -> Iterator[RenderableType]:
    """The machine, a line per kind and precision at the middle size, and what follows."""
    yield Text.assemble(("onnxprune profile ", "bold"), described(found.machine), f", {found.date}")
    shown = at_the_middle(found.curves)
    table = Table("milliseconds at width", *map(str, SHOWN), "fast at multiples of", **PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    for curve in shown:
        times = (f"{curve.milliseconds[w]:.3g}" if w in curve.milliseconds else "" for w in SHOWN)
        table.add_row(f"{name_of(curve)}, {curve.precision}", *times, str(found.alignment[curve.precision][curve.kind]))
    yield table
    size = shown[0].size
    yield Text(f"short stacks of equal layers, {size}x{size} positions; widths of grouped convolutions are those of a group")
    what = f"multiples of {found.multiple} are" if found.multiple > 1 else "any width is"
    yield Text(f"{what} fast ({', '.join(DECISIVE)}, float, at all sizes): the meaning of --align auto")


def described(machine: Machine) -> str:
    """A machine in one line."""
    facts = [machine.processor, counted(machine.threads, "thread"), f"onnxruntime {machine.onnxruntime}", machine.system]
    return ", ".join([*facts, *([f"governor {machine.governor}"] if machine.governor else [])])


def name_of(curve: Curve) -> str:
    """The kind of its layers in words."""
    return KINDS.get(curve.kind, curve.kind)


def at_the_middle(curves: Sequence[Curve]) -> list[Curve]:
    """The curves at the middle one of all sizes."""
    sizes = sorted({c.size for c in curves})
    return [c for c in curves if c.size == sizes[len(sizes) // 2]]


def draw(found: Profile, path: Path) -> None:
    """The staircases: a panel per kind, latency over width, at the middle size.

    Raises:
        OutputError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(10, 6)
    panels = dict(zip(KINDS, figure.subplots(2, 3).flat, strict=True))
    shown = at_the_middle(found.curves)
    for curve in shown:
        axes, times = panels[curve.kind], curve.milliseconds
        points = [
            (w, times[w]) for w in sorted(times) if w - 1 in times or w + 1 in times
        ]  # between others, steps would not show
        multiple = found.alignment[curve.precision][curve.kind]
        label = f"{curve.precision}: multiples of {multiple}" if multiple > 1 else f"{curve.precision}: any width"
        color = f"C{PRECISIONS.index(curve.precision)}"
        axes.plot(*zip(*points, strict=True), linewidth=1, color=color, label=label)
        axes.set_title(name_of(curve), fontsize=9)
        axes.set_xticks(range(16, 65, 8))
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    for axes in panels.values():
        axes.set_ylim(bottom=0)
    size = shown[0].size
    figure.supxlabel("width (channels; of a group in grouped convolutions)", fontsize=8)
    figure.supylabel(f"milliseconds for a short stack, {size}x{size} positions", fontsize=8)
    figure.suptitle(f"{described(found.machine)}, {found.date}", fontsize=9)
    save_figure(figure, path)
