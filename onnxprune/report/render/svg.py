# SPDX-License-Identifier: Apache-2.0
"""Networks as SVG pictures, with one bar per node that has MACs.

`inspection_to_svg`: the length is the node's share of the MACs, the colours are what can and cannot be removed.
`cut_to_svg`: the MACs that were kept and removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from onnxprune.errors import printable
from onnxprune.report.inspection import Inspection, LayerView
from onnxprune.report.layers import LayerChange
from onnxprune.report.values import Report

ROW, LABEL, BAR, TOP, MARGIN = 14, 340, 480, 62, 80
CAN, MUST, BARE = "#2b7bba", "#d9730d", "#b0b4ba"
INSPECTED = {"can be removed": CAN, "must be kept": MUST, "product of two computed tensors": BARE}
CUT = {"kept": CAN, "removed": "#c9dcec"}


def _text(text: str) -> str:
    """Text in an SVG, which must not hold control characters."""
    return escape(printable(text))


def inspection_to_svg(found: Inspection) -> str:
    """What can be cut; hovering over a bar shows what it is and why channels are kept."""
    longest = max((layer.macs for layer in found.layers), default=1.0)
    rows = (line for k, layer in enumerate(found.layers) for line in _inspected(layer, TOP + ROW * k, layer.macs / longest))
    return _page(found.model, summary(found), INSPECTED, len(found.layers), rows)


def cut_to_svg(report: Report, layers: Sequence[LayerChange]) -> str:
    """What a cut has removed from every layer."""
    longest = max((layer.before for layer in layers), default=1)
    rows = (line for k, layer in enumerate(layers) for line in _changed(layer, TOP + ROW * k, longest))
    return _page(report.model, headline(report), CUT, len(layers), rows)


def summary(found: Inspection) -> str:
    """What an inspection found, in one line."""
    return (
        f"{found.macs / 1e6:,.1f} M MACs; {found.held_macs:.1%} of them are spent on channels that cannot be removed; "
        f"{found.fixed_macs:.1%} would remain if all prunable channels were removed"
    )


def headline(report: Report) -> str:
    """The effect of a cut, in one line."""
    macs = f"{report.macs.before / 1e6:,.1f} -> {report.macs.after / 1e6:,.1f} M MACs ({report.macs.kept:.0%})"
    file = f"{report.bytes.before / 1e6:,.2f} -> {report.bytes.after / 1e6:,.2f} MB"
    parts = [macs, file]
    if report.benchmark:
        before, after = report.benchmark.latencies[:2]
        parts.append(f"{before.median_ms:.2f} -> {after.median_ms:.2f} ms ({report.benchmark.speedup[1]:.2f}x)")
    if report.accuracy and report.measure == "top-1":
        parts.append(f"top-1 {report.accuracy.before:.1%} -> {report.accuracy.after:.1%}")
    return "; ".join(parts)


def _page(title: str, text: str, legend: Mapping[str, str], rows: int, lines: Iterable[str]) -> str:
    """A picture with space for `rows` bars."""
    whole = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + BAR + MARGIN}" height="{TOP + ROW * rows + 12}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18" font-size="14">{_text(title)}</text>',
        f'<text x="8" y="36">{_text(text)}</text>',
        *_legend(legend),
        *lines,
        "</svg>",
    ]
    return "\n".join(whole) + "\n"


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    x = 8
    for text, colour in colours.items():
        yield f'<rect x="{x}" y="44" width="10" height="10" fill="{colour}"/><text x="{x + 14}" y="53">{text}</text>'
        x += 40 + 7 * len(text)


def _bar(name: str, hover: str, y: int, parts: Sequence[tuple[str, float]], end: str) -> Iterator[str]:
    """One row: its name, the text shown on hovering, (colour, length) of its parts, and the text after the bar."""
    shown = name if len(name) <= 52 else f"{name[:14]}...{name[-35:]}"
    yield f"<g><title>{_text(name)}: {_text(hover)}</title>"
    yield f'<text x="{LABEL - 6}" y="{y + 10}" text-anchor="end">{_text(shown)}</text>'
    x = float(LABEL)
    for colour, share in parts:
        width = max(BAR * share, 0.5 * (share > 0))
        yield f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{ROW - 3}" fill="{colour}"/>'
        x += width
    yield f'<text x="{x + 5:.1f}" y="{y + 10}" fill="#555">{end}</text></g>'


def _inspected(layer: LayerView, y: int, length: float) -> Iterator[str]:
    channels = layer.free + layer.held
    can, must = (length * n / channels if channels else 0.0 for n in (layer.free, layer.held))
    parts = ((CAN, can), (MUST, must)) if channels else ((BARE, length),)
    why = f"; {layer.held:,} are kept because {layer.why}" if layer.held else f": {layer.why}" if layer.why else ""
    hover = f"{layer.macs:.2%} of the MACs, {layer.free:,} channels can be removed{why}"
    yield from _bar(f"{layer.op} {layer.node}", hover, y, parts, f"{layer.macs:.1%}")


def _changed(layer: LayerChange, y: int, longest: int) -> Iterator[str]:
    kept, removed = CUT.values()
    parts = ((kept, layer.after / longest), (removed, max(layer.before - layer.after, 0) / longest))
    hover = f"{layer.before / 1e6:,.3f} -> {layer.after / 1e6:,.3f} M multiply-accumulates"
    yield from _bar(f"{layer.op} {layer.node}", hover, y, parts, f"{layer.after / layer.before:.0%}")
