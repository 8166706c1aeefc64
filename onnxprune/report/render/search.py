# SPDX-License-Identifier: Apache-2.0
"""What a search has found as a table, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.errors import counted
from onnxprune.figures import new_figure, save_figure
from onnxprune.report.render.table import PLAIN, TARGETED
from onnxprune.report.search import Point, SearchReport


def search_parts(found: SearchReport) -> Iterator[RenderableType]:
    """The front, the best first, and what it stands on."""
    targets = " and ".join(f"{asked} {_named(name)}" for name, asked in found.targets.items())
    yield Text.assemble(("onnxprune search ", "bold"), f"{found.model}\nasked: the most faithful model with at most {targets}")
    yield _points(found)
    known = "" if found.accuracy is None else f"; the original's {found.measure} is {found.accuracy:.2%}"
    yield Text(f"lost and accuracy: on {counted(found.held_out, 'held-out sample')} of {found.data}, unused before{known}")
    if "latency" in found.original:
        yield Text(f"latency: measured on {found.machine['name']} ({found.machine['processor']})")
    if found.branches:
        yield Text(f"residual branches that may go, the first first: {', '.join(found.branches)}")
    before = f", {found.resumed:,} of them before" if found.resumed else ""
    failed = f"; {found.failed:,} more failed" if found.failed else ""
    where = f" in {found.storage}" if found.storage else ""
    judged = f"judged on {counted(found.judged, 'sample')} without recovery"
    yield Text(f"{counted(found.trials, 'trial')}{where} (study {found.study}{before}), {judged}{failed}")


def _named(target: str) -> str:
    return TARGETED[target] if target in ("macs", "params") else f"of the {TARGETED[target]}".replace("of the files", "files")


def _points(found: SearchReport) -> Table:
    timed, right = "latency" in found.original, found.accuracy is not None
    names = ["trial", "channels ranked by", "MACs", "parameters", "files"]
    names += ["latency"] * timed + ["in search", "lost"] + ["accuracy"] * right + ["file"]
    table = Table(*names, **PLAIN)
    for column in table.columns[2:-1]:
        column.justify = "right"
    for point in found.points:
        table.add_row(*_cells(point, found, timed, right))
    return table


def _cells(point: Point, found: SearchReport, timed: bool, right: bool) -> Iterator[str]:
    default = " (the default)" if point.candidate.trial == 0 else ""
    yield f"{point.candidate.trial}{default}"
    yield point.candidate.settings
    yield from (f"{point.costs[name] / max(found.original[name], 1):.1%}" for name in ("macs", "params", "size"))
    if timed:
        yield f"{point.costs['latency']:.3g} ms ({point.costs['latency'] / found.original['latency']:.1%})"
    yield f"{point.candidate.lost:.3f}"
    yield f"{point.lost:.3f}"
    if right:
        yield "" if point.accuracy is None else f"{point.accuracy:.2%}"
    why = "misses a target" if point.missed else "" if point.front else "worse than another"
    yield ", ".join(x for x in (Path(point.output).name, why) if x)


def draw(found: SearchReport, path: Path) -> None:
    """What is lost over what remains: all trials, those that no other one beats, and the points after recovery.

    Raises:
        OutputError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    first = next(iter(found.targets))
    axes.scatter(
        [100 * kept for _, kept, _ in found.tried],
        [lost for _, _, lost in found.tried],
        s=12,
        color="0.75",
        label=f"{counted(len(found.tried), 'trial')}, on samples of the search, without recovery",
    )
    ordered = sorted(found.front, key=lambda c: c.kept)
    axes.plot([100 * c.kept for c in ordered], [c.lost for c in ordered], marker="o", markersize=4, label="their front")
    points = [p for p in found.points if p.front]
    axes.plot(
        [100 * p.kept for p in sorted(points, key=lambda p: p.kept)],
        [p.lost for p in sorted(points, key=lambda p: p.kept)],
        marker="D",
        markersize=5,
        label="the best, recovered, on held-out samples",
    )
    default = [p for p in found.points if p.candidate.trial == 0]
    axes.scatter([100 * p.kept for p in default], [p.lost for p in default], marker="x", color="k", label="the default")
    axes.set(xlabel=f"{TARGETED[first]}, % of the original", ylabel="lost of what the outputs tell about the inputs", ylim=0)
    axes.set_title(f"{Path(found.model).name}, {found.data}", fontsize=10)
    axes.legend(fontsize=7)
    save_figure(figure, path)
