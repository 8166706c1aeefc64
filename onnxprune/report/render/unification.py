# SPDX-License-Identifier: Apache-2.0
"""What was unified, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.errors import counted
from onnxprune.report.values import Report, UnificationRow

NAMED = 4
"""How many weights that stay as they are, are named."""


def unification_table(report: Report, row: UnificationRow) -> Table:
    """The size of the file in all steps: original, cut, unified, and packed."""
    table = Table(
        "",
        "before",
        "after",
        "kept",
        "note",
        title=_title(row),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.columns[4].overflow = "fold"
    for column in table.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    carrier = row.carrier
    original, cut, after, packed = report.bytes.before, row.bytes.before, row.bytes.after, row.packed
    if report.removed:
        table.add_row("file size, cut", *_sizes(original, cut))
    note = f"codes in {carrier.codes}, loads in onnxruntime {carrier.runtime} and newer"
    table.add_row("file size", *_sizes(original, after), note)
    weights = f"{row.bits:.2f} bits per unified weight"
    table.add_row("packed with Zstandard", *_sizes(original, packed), f"of the plain original; {weights}; --pack zst writes it")
    return table


def _title(row: UnificationRow) -> str:
    shared, zero, free = row.counts
    parts = [
        f"{shared:,} share a magnitude",
        *([f"{zero:,} are zero"] if zero else []),
        *([f"{free:,} are free"] if free else []),
    ]
    return f"blocks of {row.block}: {', '.join(parts)}, in {counted(len(row.weights), 'weight')}"


def unification_lines(row: UnificationRow) -> Iterator[RenderableType]:
    """What was verified, and what stays as it is."""
    carrier = row.carrier
    yield Text("verified: ", style="green").append(
        Text(
            "every block has what is claimed; the file computes what the same weights stored as numbers compute, largest "
            f"relative difference {carrier.error:.1e} without graph optimisation, {carrier.optimised_error:.1e} with it, on "
            f"{carrier.inputs} seeded inputs",
            style="default",
        )
    )
    if row.left:
        names = ", ".join(row.left[:NAMED]) + (f" and {len(row.left) - NAMED} more" if len(row.left) > NAMED else "")
        why = "first or last layers, too small, read in several ways, or all blocks free"
        yield Text("note: ", style="cyan").append(Text(f"not unified: {names} ({why})", style="default"))


def _sizes(before: float, after: float) -> tuple[str, str, str]:
    return _bytes(before), _bytes(after), f"{after / before:.1%}" if before else ""


def _bytes(size: float) -> str:
    return f"{size / 1e6:.3f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
