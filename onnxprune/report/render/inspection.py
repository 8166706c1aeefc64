# SPDX-License-Identifier: Apache-2.0
"""What `inspect` shows, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxprune.errors import counted
from onnxprune.report.inspection import Inspection
from onnxprune.report.render.table import MAX_PINS, PLAIN, Fitted, Row, pins_table, shapes_text
from onnxprune.report.values import KEEPING

OVERLAP = 1.005
"""Shares that add up to more than this are explained; less is rounding."""


MANY = 100
"""Parameters from which an operator that multiplies nothing is shown."""


def inspection_parts(found: Inspection, bars: bool) -> Iterator[RenderableType]:
    """What `inspect` shows: groups with their members, what cannot be cut, and what no cut changes.

    Args:
        found: the inspection.
        bars: show shares of the MACs also as bars of block characters, which not every terminal has.
    """
    pinned = sum(p.channels for p in found.pins)
    held = f"{counted(pinned, 'channel')} cannot be cut" if pinned or not found.pins else "some channels cannot be cut"
    yield Text(f"{found.nodes:,} nodes, {found.macs / 1e6:,.2f} M MACs (input: {shapes_text(found.inputs)})")
    yield Text(
        f"{counted(found.prunable, 'prunable channel')} in {counted(len(found.groups), 'group')}; {held} "
        f"({found.held_macs:.1%} of the MACs)"
    )
    if found.dead:
        yield Text(f"{counted(found.dead, 'channel')} of them provably always zero: any cut removes them, beside what is asked")
    if found.constant:
        what = f"{counted(found.constant, 'channel')} of them provably always the same, but not zero"
        yield Text(f"{what}: a cut removes them, too, and biases make up for them (not with --recover none)")
    if found.folded:
        yield Text(
            f"BatchNormalization seems to be folded into convolutions, so its scale is not scored; to score it, {KEEPING}"
        )
    elif found.batch_norms:
        yield Text(f"{counted(found.batch_norms, 'BatchNormalization node')}, not folded")
    yield _operators_table(found)
    yield _groups_table(found, bars)
    if sum(g.macs for g in found.groups) + found.held_macs > OVERLAP:
        yield Text("shares add up to more than 100%: a layer counts for the channels that it makes and for those that it reads")
    if found.pins:
        yield pins_table(found.pins)
    if found.rest:
        yield _rest_table(found)


def _operators_table(found: Inspection) -> Table:
    """What each operator that multiplies or stores something counts for."""
    table = Table("operator", "nodes", "MACs", "share of MACs", "parameters", **PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    shown = [r for r in found.operators if r.macs or r.params >= MANY]
    for r in shown:
        table.add_row(r.op, f"{r.nodes:,}", f"{r.macs / 1e6:,.2f} M", f"{r.share:.1%}", f"{r.params / 1e3:,.1f} k")
    others = [r for r in found.operators if r not in shown]
    if others:
        table.add_row(counted(len(others), "other operator"), f"{sum(r.nodes for r in others):,}", "", "", "")
    return table


def _groups_table(found: Inspection, bars: bool) -> Fitted:
    """What can be cut, with everything that is cut with it."""
    table = Table("group", "channels", "share of MACs", "", "made by", escape("weight[axis]"), **PLAIN)
    table.columns[1].justify = table.columns[2].justify = "right"
    for column in (table.columns[0], *table.columns[4:]):
        column.overflow = "fold"  # a truncated name is useless
    rows: list[Row] = []
    for g in found.groups:
        width = f"{g.channels:,}" if g.each == 1 else f"{g.channels:,} x {g.each}"
        blocks = f" in {g.blocks[0]} equal blocks" if g.blocks else ""
        makers, members = _some(g.made_by, 1), _some(g.members, 3)
        cells = (width + blocks, f"{g.macs:.1%}", bar(g.macs) if bars else "", makers, members)
        table.add_row(escape(g.name), *map(escape, cells))
        made = (f"made by {makers}",) if makers else ()
        rows.append((f"{g.name}: {width}{blocks} channels, {g.macs:.1%} of the MACs", (*made, f"slices of {members}")))
    return Fitted(table, tuple(rows))


def bar(share: float, width: int = 10) -> str:
    """A share as a bar of block characters.

    >>> bar(0.5, 4), bar(0.03, 4), bar(0.0)
    ('██', '▏', '')
    """
    eighths = max(round(8 * width * share), 1) if share > 0.001 else 0
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8 or -8]


def _some(names: Sequence[str], most: int) -> str:
    more = f", ... {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rest_table(found: Inspection) -> Fitted:
    """What no cut changes, largest first."""
    title = f"kept if all prunable channels are removed: {found.fixed_macs:.1%} of the MACs"
    table = Table("share of MACs", "node", "kept because", title=title, title_justify="left", title_style="bold", **PLAIN)
    table.columns[0].justify = "right"
    rows: list[Row] = []
    for r in found.rest[:MAX_PINS]:
        node = f"{r.op} '{r.node}'"
        table.add_row(f"{r.macs:.1%}", escape(node), escape(r.why))
        rows.append((f"{node}: {r.macs:.1%} of the MACs", (f"kept because {r.why}",)))
    if len(found.rest) > MAX_PINS:
        more = found.rest[MAX_PINS:]
        others = f"... {len(more)} more nodes (--format json lists all)"
        share = f"{sum(r.macs for r in more):.1%}"
        table.add_row(share, others, "")
        rows.append((f"{others}: {share} of the MACs", ()))
    return Fitted(table, tuple(rows))
