# SPDX-License-Identifier: Apache-2.0
"""Reports and other results as tables for a terminal: iterators of what rich can print, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnxprune.cost.benchmark import Benchmark, Latency
from onnxprune.errors import counted
from onnxprune.evaluation.verification import Verification
from onnxprune.report.inspection import PinView
from onnxprune.report.render.unification import unification_lines, unification_table
from onnxprune.report.values import Change, LossRow, MixRow, PinRow, RecoveryRow, Report

MAX_ROWS = 60
MAX_PINS = 12
ROOMY = 120
"""From this width on, tables break names rather than become lists."""
PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold"}


TARGETED = MappingProxyType({"macs": "MACs", "params": "parameters", "size": "files", "memory": "memory", "latency": "latency"})
"""What options that limit a cost limit."""
Row = tuple[str, tuple[str, ...]]
"""A line, and those below it."""


@dataclass(frozen=True)
class Fitted:
    """A table, or a list with the same content where the table is too wide for names to stay whole.

    Attributes:
        table: the table, with its title.
        rows: the rows of the list.
    """

    table: Table
    rows: tuple[Row, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        needed = Measurement.get(console, options.update(max_width=10**6), self.table).maximum
        if needed <= options.max_width or options.max_width >= ROOMY:
            yield self.table
            return
        if self.table.title:
            yield Text(str(self.table.title), style="bold")
        for first, more in self.rows:
            yield Text(first)
            yield from (Padding(Text(line), (0, 0, 0, 4)) for line in more)


def report_parts(report: Report) -> Iterator[RenderableType]:
    """The whole report."""
    yield _headline(report)
    if report.unknown:
        yield Text("accuracy: unknown: ", style="bold yellow").append(Text(report.unknown, style="default"))
    row = report.unification
    alone = row is not None and not report.groups
    if (costs := _costs(report, alone)).row_count:
        yield costs
    if row is not None:
        yield unification_table(report, row)
    if not alone:
        yield _groups(report)
    if report.pins and not alone:
        yield pins_table(report.pins)
    if report.renormalising:
        yield _mixes(report.renormalising)
    if report.recovery:
        yield _recovery_title(report.recovery)
        yield _recovery(report.recovery, report.measure)
    if row is not None and row.recovery:
        yield _recovery_title(row.recovery, "unification")
        yield _recovery(row.recovery, report.measure, {"none": "projection alone"})
    yield from _closing(report)


def _headline(report: Report) -> Text:
    asked, ratio = report.asked, report.asked.get("ratio")
    if report.unification is not None and not report.groups:
        size = f"blocks of {asked.get('unify')}"
        options = ", ".join([size, *(_option(name, value) for name, value in asked.items() if name != "unify")])
        return Text.assemble(("onnxprune unify ", "bold"), f"{report.model}\nasked: {options}")
    text = Text.assemble(("onnxprune ", "bold"), report.model)
    limits = [f"{asked[name]} {_of(asked[name], name)}{what}" for name, what in TARGETED.items() if name in asked]
    loss = f"a loss of at most {asked['max_loss']}" if "max_loss" in asked else ""
    if limits:
        what = f"at most {' and '.join(limits)}" + (f", with {loss}" if loss else "")
    elif loss and ratio is None:
        what = f"the deepest cut with {loss}"
    elif isinstance(ratio, int | float):
        what = f"{100 * ratio:.4g}% of the prunable channels"
    else:
        what = "the ratios of layers" if "layer_ratios" in asked else "the channels of the plan"
    shown = ("scope", "widths", "criterion", "normalise", "layer_ratios", "align")
    options = ", ".join(f"{name.replace('_', ' ')} {asked[name]}" for name in shown if name in asked)
    text.append(f"\nasked: {what}" + (f", {options} ({report.align_reason})" if options else ""))
    if "unify" in asked:
        text.append(f", then blocks of {asked['unify']}")
    for name in ("include", "exclude", "carrier"):
        if isinstance(asked.get(name), list):
            text.append(f", {name} {' '.join(map(str, asked[name]))}")
    if asked.get("depth"):
        text.append(", whole branches may go")
    if asked.get("allow_renormalising"):
        text.append(", renormalising allowed")
    return text


def _option(name: str, value: Any) -> str:
    """An option of `unify` as a user writes it."""
    words = [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return " ".join([name.replace("_", " "), *words])


def _costs(report: Report, alone: bool = False) -> Table:
    """What a cut changes; `alone`: nothing was cut."""
    table = Table("", "before", "after", "kept", "note", box=None, pad_edge=False, header_style="bold")
    table.columns[4].overflow = "fold"
    for column in table.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    if not alone:
        kept = report.prunable - report.removed
        note = f"{report.ratio:.1%} removed"
        table.add_row("prunable channels", f"{report.prunable:,}", f"{kept:,}", f"{1 - report.ratio:.1%}", note)
        at = shapes_text(report.inputs)
        table.add_row("MACs", *_change(report.macs, 1e6, "M"), _noted(report, "macs", f"input: {at}"))
        table.add_row("parameters", *_change(report.params, 1e3, "k"), _noted(report, "params"))
    if report.unification is None or _noted(report, "size"):
        table.add_row("file size", *_change(report.bytes, 1e6, "MB"), _noted(report, "size"))
    if not alone:
        table.add_row(
            "memory", *_change(report.memory, 1e6, "MB"), _noted(report, "memory", "computed: weights and activations")
        )
    if report.peak:
        table.add_row(
            "peak memory", *_change(report.peak, 1e6, "MB"), "measured: loading and running, less a model of one node"
        )
    if report.benchmark:
        a, b = report.benchmark.latencies[:2]
        note = _noted(report, "latency", _spread(a, b))
        table.add_row("latency", _ms(a), _ms(b), f"{b.median_ms / a.median_ms:.1%}", note)
        table.add_row("speed-up", "", *_speedup(report.benchmark))
    if report.accuracy:
        shown = "{:.2%}" if report.measure == "top-1" else "{:.4g}"  # a metric may have any scale
        values = (shown.format(v) for v in (report.accuracy.before, report.accuracy.after))
        table.add_row("accuracy", *values, "", escape(_samples(report, shown)))
    if report.loss:
        table.add_row(*_lost(report.loss))
    return table


def _lost(loss: LossRow) -> tuple[str, ...]:
    """A row about what is lost."""
    asked = f"asked: at most {loss.asked}{'' if loss.met else ', missed'}"
    interval = "" if loss.low is None else f"; 95 % interval {loss.low:.2%} to {loss.high:.2%}"
    what = f"{loss.what}, on {counted(loss.samples, 'held-out sample')}{interval}"
    return "lost", "", f"{loss.reached:.2%}", "", f"{asked}; {what}"


def _of(asked: Any, name: str) -> str:
    return "of the " if str(asked).strip().endswith("%") else "of " if name in ("size", "memory", "latency") else ""


def _noted(report: Report, name: str, more: str = "") -> str:
    """What was asked of a cost, and whatever else there is to say about it."""
    asked = [f"asked: at most {t.asked}{'' if t.met else ', missed'}" for t in report.targets if t.name == name]
    return "; ".join([*asked, *([more] if more else [])])


def _samples(report: Report, shown: str) -> str:
    """What accuracy was measured on and, if weights were fitted, the accuracy of the cut alone."""
    last = (report.unification.recovery if report.unification else None) or report.recovery
    fitted = last is not None and last.fitted
    held = "held-out " if fitted else ""
    alone = f"; {shown.format(report.accuracy_cut)} before recovery" if fitted and report.accuracy_cut is not None else ""
    return f"{report.measure} on {counted(report.samples, f'{held}sample')}{alone}"


def _change(change: Change, unit: float, name: str) -> tuple[str, str, str]:
    return f"{change.before / unit:,.2f} {name}", f"{change.after / unit:,.2f} {name}", f"{change.kept:.1%}"


def _ms(latency: Latency) -> str:
    return f"{latency.median_ms:.3f} ms"


def _spread(a: Latency, b: Latency) -> str:
    return f"median of {a.runs} runs; 10-90 %: {a.low_ms:.3f}-{a.high_ms:.3f}, {b.low_ms:.3f}-{b.high_ms:.3f}"


def _speedup(result: Benchmark) -> tuple[str, str, str]:
    spread = f"10-90 %: {result.speedup_low[1]:.2f}-{result.speedup_high[1]:.2f}"
    return f"{result.speedup[1]:.2f}x", "", f"{spread}; {counted(result.threads, 'thread')}, {result.provider}"


def _groups(report: Report) -> Table:
    table = _plain_table("group", "width", "kept", title="channel groups")
    table.columns[1].justify = table.columns[2].justify = "right"
    rows = sorted(report.groups, key=lambda g: -g.before)[:MAX_ROWS] if len(report.groups) > MAX_ROWS else report.groups
    for g in rows:
        table.add_row(escape(g.name), f"{g.before} -> {g.after}", f"{g.after / g.before:.0%}")
    if len(report.groups) > len(rows):
        table.add_row(f"... and {len(report.groups) - len(rows)} narrower groups (--format json lists all)", "", "")
    return table


def _recovery(row: RecoveryRow, measure: str, names: Mapping[str, str] = MappingProxyType({})) -> Table:
    """The methods that were tried, under other names if `names` has some; the one that was kept is marked."""
    judged = [a.judgement for a in row.attempts if a.judgement is not None]
    scored, classes = row.before is not None and row.before.accuracy is not None, any(j.agreement is not None for j in judged)
    parts = any(j.part for j in judged)
    heads = ["lost", *(["most in"] if parts else []), *(["same best class"] if classes else []), *([measure] if scored else [])]
    table = Table("method", *heads, "seconds", **PLAIN)
    for column in table.columns[1:]:
        column.justify = "right"
    for a in row.attempts:
        j, mark = a.judgement, " (kept)" if a.name == row.method else ""
        name = Text(f"{names.get(a.name, a.name)}{mark}", style="bold" if mark else "")
        if j is None:
            table.add_row(name, "failed")
            continue
        cells = [f"{min(j.lost, 99.99):.1%}" if j.lost < 100 else "all", *([escape(j.part)] if parts else [])]
        cells += ["" if j.agreement is None else f"{j.agreement:.1%}"] if classes else []
        cells += ["" if j.accuracy is None else f"{j.accuracy:.4g}"] if scored else []
        table.add_row(name, *cells, f"{a.seconds:.1f}")
    return table


def _recovery_title(row: RecoveryRow, what: str = "recovery") -> Text:
    """What the methods were fitted to and tested on, and what the figures mean."""
    fitted = f"fitted to {row.fitted:,} samples, tested on {row.judged:,} others"
    where = f"{fitted if row.fitted else f'tested on {row.judged:,} samples'} ({row.source})"
    if row.made:
        text = Text("on made-up inputs, which shows nothing about accuracy: ", style="bold yellow").append(where, style="bold")
    else:
        kept = "the least lost is kept" if row.by == "lost" else f"the best {row.by} is kept"
        text = Text(f"{what}: {where}{f'; {kept}' if len(row.attempts) > 1 else ''}", style="bold")
    share = next((j.commonest for j in (a.judgement for a in row.attempts) if j and j.commonest is not None), None)
    commonest = "" if share is None else f"; a constant answer reaches {share:.1%} of the same best class"
    meaning = "lost: of what the outputs tell about the inputs (0 %: as the original, 100 %: as bad as a constant)"
    return text.append(f"\n{meaning}{commonest}", style="not bold default")


def pins_table(pins: Sequence[PinRow] | Sequence[PinView]) -> Fitted:
    """What cannot be cut, most work first."""
    table = _plain_table("channels", "share of MACs", "kept because", "weights", title="channels that cannot be cut")
    table.columns[0].justify = table.columns[1].justify = "right"
    rows: list[Row] = []
    for p in pins[:MAX_PINS]:
        more = f" and {len(p.weights) - 2} more" if len(p.weights) > 2 else ""
        shown, weights = f"{p.channels:,}" if p.channels else "?", ", ".join(p.weights[:2]) + more
        table.add_row(shown, f"{p.macs:.1%}", escape(p.reason), escape(weights))
        rows.append((f"{_channels(p.channels)}, {p.macs:.1%} of the MACs", (f"kept because {p.reason}", f"weights: {weights}")))
    if len(pins) > MAX_PINS:
        rest = pins[MAX_PINS:]
        others = f"... {len(rest)} more reasons (--format json lists all)"
        count, share = sum(p.channels for p in rest), f"{sum(p.macs for p in rest):.1%}"
        table.add_row(f"{count:,}", share, others, "")
        rows.append((f"{_channels(count)}, {share} of the MACs", (others,)))
    return Fitted(table, tuple(rows))


def _channels(count: int) -> str:
    """A number of channels; 0 means that it is not known."""
    return counted(count, "channel") if count else "an unknown number of channels"


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
        what = verification_text(verification, bool(report.constant))
        yield Text("verified: ", style="green").append(Text(what + refitted, style="default"))
    elif report.unification is None or report.groups:
        yield Text("not verified (--no-verify)", style="yellow")
    if report.unification is not None:
        yield from unification_lines(report.unification)
    if report.work:
        # when training steps became smaller is of use to a repeated run only
        done = ", ".join(f"{name}: {number:,}" for name, number in report.work.items() if " until " not in name)
        yield Text("work: ", style="cyan").append(Text(f"{done} (--work PLAN.json repeats it)", style="default"))
    for note in report.notes:
        yield Text("note: ", style="cyan").append(Text(note, style="default"))
    for warning in report.warnings:
        yield Text("warning: ", style="bold yellow").append(Text(warning, style="default"))
    if report.output:
        yield Text(f"wrote {report.output}" + (f", plan {report.plan}" if report.plan else ""))
    elif report.plan:
        yield Text(f"wrote plan {report.plan}, and no model (--dry-run)")


def _refitted(report: Report) -> bool:
    return report.recovery is not None and report.recovery.method != "none"


def verification_text(verification: Verification, made_up: bool = False) -> str:
    """What was verified and how closely, in one sentence.

    Args:
        made_up: whether biases make up for removed channels that are always the same.
    """
    count = verification.renormalising
    nodes = "1 node works" if count == 1 else f"{count:,} nodes work"
    done, failures = len(verification.inputs), verification.failures
    inputs = f"{done} of {done + len(failures)}" if failures else f"{done}"
    why = f"; the original fails on {'; '.join(failures)}" if failures else ""
    bodies = f", and in each of {len(verification.reached)} bodies of If and Loop" if verification.reached else ""
    missed = f"; not reached, so not verified: {'; '.join(verification.unreached)}" if verification.unreached else ""
    same = ", those that are always the same apart" if made_up else ""
    mixes = f", in which {nodes} on the kept channels only" if count else ""
    return (
        f"equal to the original with the removed channels zeroed{same}{mixes}, "
        f"largest relative difference {verification.error:.1e} (tolerance {verification.tolerance:.0e}) "
        f"on {inputs} seeded inputs in {verification.engine}{bodies}{why}{missed}"
    )


def shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Input shapes, as in `image 1x1x28x28`."""
    return ", ".join(f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in shapes.items())


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
    threads = counted(result.threads, "thread")
    rounds = f"{result.latencies[0].runs} rounds of alternating runs"
    yield Text(f"{rounds}, {threads}, {result.provider}, {shapes_text(result.inputs)}")
