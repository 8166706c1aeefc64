# SPDX-License-Identifier: Apache-2.0
"""Reports and other results as tables for a terminal: iterators of what rich can print, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxprune.cost.benchmark import Benchmark, Latency
from onnxprune.evaluation.verification import Verification
from onnxprune.report.inspection import Inspection, PinView
from onnxprune.report.values import Change, MixRow, PinRow, RecoveryRow, Report

MAX_ROWS = 60
MAX_PINS = 12
PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold"}


def report_parts(report: Report) -> Iterator[RenderableType]:
    """The whole report."""
    yield _headline(report)
    yield _costs(report)
    yield _groups(report)
    if report.pins:
        yield pins_table(report.pins)
    if report.renormalising:
        yield _mixes(report.renormalising)
    if report.recovery:
        yield _recovery(report.recovery, report.measure)
    yield from _closing(report)


def _headline(report: Report) -> Text:
    asked, ratio = report.asked, report.asked.get("ratio")
    text = Text.assemble(("onnxprune ", "bold"), report.model)
    if "macs" in asked:
        what = f"at most {asked['macs']} of the MACs"
    else:
        what = f"{100 * ratio:.4g}% of the prunable channels" if isinstance(ratio, int | float) else "the channels of the plan"
    options = ", ".join(f"{name} {asked[name]}" for name in ("scope", "criterion", "align") if name in asked)
    text.append(f"\nasked: {what}" + (f", {options} ({report.align_reason})" if options else ""))
    if isinstance(asked.get("carrier"), list):
        text.append(f", carrier {' '.join(map(str, asked['carrier']))}")
    if asked.get("allow_renormalising"):
        text.append(", renormalising allowed")
    return text


def _costs(report: Report) -> Table:
    table = Table("", "before", "after", "kept", "note", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:4]:
        column.justify = "right"
    kept = report.prunable - report.removed
    note = f"{report.ratio:.1%} removed"
    table.add_row("prunable channels", f"{report.prunable:,}", f"{kept:,}", f"{1 - report.ratio:.1%}", note)
    at = shapes_text(report.inputs)
    table.add_row("MACs", *_change(report.macs, 1e6, "M"), f"input: {at}")
    table.add_row("parameters", *_change(report.params, 1e3, "k"))
    table.add_row("file size", *_change(report.bytes, 1e6, "MB"))
    if report.benchmark:
        a, b = report.benchmark.latencies[:2]
        table.add_row("latency", _ms(a), _ms(b), f"{b.median_ms / a.median_ms:.1%}", _spread(a, b))
        table.add_row("speed-up", "", *_speedup(report.benchmark))
    if report.accuracy:
        shown = "{:.2%}" if report.measure == "top-1" else "{:.4g}"  # a metric may have any scale
        values = (shown.format(v) for v in (report.accuracy.before, report.accuracy.after))
        table.add_row("accuracy", *values, "", escape(_samples(report, shown)))
    return table


def _samples(report: Report, shown: str) -> str:
    """What accuracy was measured on and, if weights were fitted, the accuracy of the cut alone."""
    fitted = report.recovery is not None and report.recovery.fitted
    alone = f"; {shown.format(report.accuracy_cut)} before recovery" if fitted and report.accuracy_cut is not None else ""
    return f"{report.measure} on {report.samples:,} {'held-out ' if fitted else ''}samples{alone}"


def _change(change: Change, unit: float, name: str) -> tuple[str, str, str]:
    return f"{change.before / unit:,.2f} {name}", f"{change.after / unit:,.2f} {name}", f"{change.kept:.1%}"


def _ms(latency: Latency) -> str:
    return f"{latency.median_ms:.3f} ms"


def _spread(a: Latency, b: Latency) -> str:
    return f"median of {a.runs} runs; 10-90 %: {a.low_ms:.3f}-{a.high_ms:.3f}, {b.low_ms:.3f}-{b.high_ms:.3f}"


def _speedup(result: Benchmark) -> tuple[str, str, str]:
    spread = f"10-90 %: {result.speedup_low[1]:.2f}-{result.speedup_high[1]:.2f}"
    plural = "s" if result.threads > 1 else ""
    return f"{result.speedup[1]:.2f}x", "", f"{spread}; {result.threads} thread{plural}, {result.provider}"


def _groups(report: Report) -> Table:
    table = _plain_table("group", "width", "kept", title="channel groups")
    table.columns[1].justify = table.columns[2].justify = "right"
    rows = sorted(report.groups, key=lambda g: -g.before)[:MAX_ROWS] if len(report.groups) > MAX_ROWS else report.groups
    for g in rows:
        table.add_row(escape(g.name), f"{g.before} -> {g.after}", f"{g.after / g.before:.0%}")
    if len(report.groups) > len(rows):
        table.add_row(f"... and {len(report.groups) - len(rows)} narrower groups (--format json lists all)", "", "")
    return table


def _recovery(row: RecoveryRow, measure: str) -> Table:
    """The recovery methods that were tried; the one that was kept is marked."""
    fitted = (
        f"fitted to {row.fitted:,} samples, tested on {row.judged:,} others"
        if row.fitted
        else f"tested on {row.judged:,} samples"
    )
    where = f"{fitted} ({row.source})"
    scored = row.before.accuracy is not None
    heads = ["method", "output error", "cosine", "top-1 agreement", *([measure] if scored else []), "seconds"]
    table = _plain_table(*heads, title=f"recovery: {where}")
    for column in table.columns[1:]:
        column.justify = "right"
    for a in row.attempts:
        j, mark = a.judgement, " (kept)" if a.name == row.method else ""
        if j is None:
            table.add_row(a.name, "failed")
            continue
        agreement = "" if j.agreement is None else f"{j.agreement:.1%}"
        accuracy = [("" if j.accuracy is None else f"{j.accuracy:.4g}")] if scored else []
        name = Text(f"{a.name}{mark}", style="bold" if mark else "")
        table.add_row(name, f"{j.error:.3g}", f"{j.cosine:.4f}", agreement, *accuracy, f"{a.seconds:.1f}")
    return table


def pins_table(pins: Sequence[PinRow] | Sequence[PinView]) -> Table:
    """What cannot be cut, largest first."""
    table = _plain_table("channels", "share of MACs", "kept because", "weights", title="channels that cannot be cut")
    table.columns[0].justify = table.columns[1].justify = "right"
    for p in pins[:MAX_PINS]:
        more = f" and {len(p.weights) - 2} more" if len(p.weights) > 2 else ""
        table.add_row(f"{p.channels:,}", f"{p.macs:.1%}", escape(p.reason), escape(", ".join(p.weights[:2])) + more)
    if len(pins) > MAX_PINS:
        rest = pins[MAX_PINS:]
        counts = (f"{sum(p.channels for p in rest):,}", f"{sum(p.macs for p in rest):.1%}")
        table.add_row(*counts, f"... {len(rest)} more reasons (--format json lists all)", "")
    return table


def _mixes(mixes: Sequence[MixRow]) -> Table:
    """Nodes that renormalise."""
    table = _plain_table("channels", "node", title="nodes that work on the kept channels only (--allow-renormalising)")
    table.columns[0].justify = "right"
    for m in mixes[:MAX_PINS]:
        table.add_row(f"{m.before:,} -> {m.after:,}", escape(m.node))
    if len(mixes) > MAX_PINS:
        rest = mixes[MAX_PINS:]
        counts = f"{sum(m.before for m in rest):,} -> {sum(m.after for m in rest):,}"
        table.add_row(counts, f"... {len(rest)} more nodes (--format json lists all)")
    return table


def _plain_table(*columns: str, title: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)


def _closing(report: Report) -> Iterator[RenderableType]:
    verification = report.verification
    if verification is not None:
        refitted = f"; weights were then refitted ({report.recovery.method})" if _refitted(report) and report.recovery else ""
        yield Text("verified: ", style="green").append(Text(verification_text(verification) + refitted, style="default"))
    else:
        yield Text("not verified (--no-verify)", style="yellow")
    for note in report.notes:
        yield Text("note: ", style="cyan").append(Text(note, style="default"))
    for warning in report.warnings:
        yield Text("warning: ", style="bold yellow").append(Text(warning, style="default"))
    if report.output:
        yield Text(f"wrote {report.output}")


def _refitted(report: Report) -> bool:
    return report.recovery is not None and report.recovery.method != "none"


def verification_text(verification: Verification) -> str:
    """What was verified and how closely, in one sentence."""
    count = verification.renormalising
    nodes = "1 node works" if count == 1 else f"{count:,} nodes work"
    done, failures = len(verification.inputs), verification.failures
    inputs = f"{done} of {done + len(failures)}" if failures else f"{done}"
    why = f"; the original fails on {'; '.join(failures)}" if failures else ""
    bodies = f", and in each of {len(verification.reached)} bodies of If and Loop" if verification.reached else ""
    missed = f"; not reached, so not verified: {'; '.join(verification.unreached)}" if verification.unreached else ""
    mixes = f", in which {nodes} on the kept channels only" if count else ""
    return (
        f"equal to the original with the removed channels zeroed{mixes}, "
        f"largest relative difference {verification.error:.1e} (tolerance {verification.tolerance:.0e}) "
        f"on {inputs} seeded inputs in {verification.engine}{bodies}{why}{missed}"
    )


def shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Input shapes, as in `image 1x1x28x28`."""
    return ", ".join(f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in shapes.items())


def inspection_parts(found: Inspection, bars: bool) -> Iterator[RenderableType]:
    """What `inspect` shows: groups with their members, what cannot be cut, and what no cut changes.

    Args:
        found: the inspection.
        bars: show shares of the MACs also as bars of block characters, which not every terminal has.
    """
    pinned = sum(p.channels for p in found.pins)
    yield Text(f"{found.nodes:,} nodes, {found.macs / 1e6:,.2f} M MACs (input: {shapes_text(found.inputs)})")
    yield Text(
        f"{found.prunable:,} prunable channels in {len(found.groups)} groups; {pinned:,} channels cannot be cut "
        f"({found.held_macs:.1%} of the MACs)"
    )
    yield _groups_table(found, bars)
    if found.pins:
        yield pins_table(found.pins)
    if found.rest:
        yield _rest_table(found)


def _groups_table(found: Inspection, bars: bool) -> Table:
    """What can be cut, with everything that is cut with it."""
    table = Table("group", "channels", "share of MACs", "", "made by", escape("weight[axis]"), **PLAIN)
    table.columns[1].justify = table.columns[2].justify = "right"
    for column in (table.columns[0], *table.columns[4:]):
        column.overflow = "fold"  # a truncated name is useless
    for g in found.groups:
        width = f"{g.channels:,}" if g.each == 1 else f"{g.channels:,} x {g.each}"
        blocks = f" in {g.blocks[0]} equal blocks" if g.blocks else ""
        cells = (width + blocks, f"{g.macs:.1%}", bar(g.macs) if bars else "", _some(g.made_by, 1), _some(g.members, 3))
        table.add_row(escape(g.name), *map(escape, cells))
    return table


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


def _rest_table(found: Inspection) -> Table:
    """What no cut changes, largest first."""
    title = f"kept if all prunable channels are removed: {found.fixed_macs:.1%} of the MACs"
    table = Table("share of MACs", "node", "kept because", title=title, title_justify="left", title_style="bold", **PLAIN)
    table.columns[0].justify = "right"
    for r in found.rest[:MAX_PINS]:
        table.add_row(f"{r.macs:.1%}", escape(f"{r.op} '{r.node}'"), escape(r.why))
    if len(found.rest) > MAX_PINS:
        more = found.rest[MAX_PINS:]
        table.add_row(f"{sum(r.macs for r in more):.1%}", f"... {len(more)} more nodes (--format json lists all)", "")
    return table


def benchmark_parts(result: Benchmark, names: Sequence[str]) -> Iterator[RenderableType]:
    """What `bench` shows."""
    table = Table("model", "median", "10-90 %", "speed-up", "10-90 %", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for k, name in enumerate(names):
        t = result.latencies[k]
        spread = f"{result.speedup_low[k]:.2f}-{result.speedup_high[k]:.2f}" if k else ""
        table.add_row(escape(name), _ms(t), f"{t.low_ms:.3f}-{t.high_ms:.3f}", f"{result.speedup[k]:.2f}x", spread)
    yield table
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    rounds = f"{result.latencies[0].runs} rounds of alternating runs"
    yield Text(f"{rounds}, {threads}, {result.provider}, {shapes_text(result.inputs)}")
