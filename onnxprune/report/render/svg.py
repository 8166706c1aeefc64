# SPDX-License-Identifier: Apache-2.0
"""A network as a picture: one bar for each node that multiplies, as long as its share of the MACs, coloured by what can go."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from onnxprune.report.inspection import Inspection, LayerView

ROW, LABEL, BAR, TOP = 14, 340, 480, 62
COLOURS = {"can be removed": "#2b7bba", "must stay": "#d9730d", "product of two computed tensors": "#b0b4ba"}


def to_svg(found: Inspection) -> str:
    """The picture as SVG; every bar says on hovering what it is and what holds it."""
    height = TOP + ROW * len(found.layers) + 12
    longest = max((layer.macs for layer in found.layers), default=1.0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + BAR + 80}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18" font-size="14">{escape(found.model)}</text>',
        f'<text x="8" y="36">{escape(summary(found))}</text>',
        *_legend(),
        *(line for k, layer in enumerate(found.layers) for line in _row(layer, TOP + ROW * k, layer.macs / longest)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def summary(found: Inspection) -> str:
    """The headline in one sentence."""
    return (
        f"{found.macs / 1e6:,.1f} M MACs; {found.held_macs:.1%} of them make channels that cannot be removed; "
        f"{found.fixed_macs:.1%} would be left if all went that can"
    )


def _legend() -> Iterator[str]:
    x = 8
    for text, colour in COLOURS.items():
        yield f'<rect x="{x}" y="44" width="10" height="10" fill="{colour}"/><text x="{x + 14}" y="53">{text}</text>'
        x += 40 + 7 * len(text)


def _row(layer: LayerView, y: int, length: float) -> Iterator[str]:
    free, stay, bare = COLOURS.values()
    channels = layer.free + layer.held
    parts = ((free, layer.free / channels), (stay, layer.held / channels)) if channels else ((bare, 1.0),)
    name = f"{layer.op} {layer.node}"
    shown = name if len(name) <= 52 else f"{name[:14]}...{name[-35:]}"
    why = f"; {layer.held:,} stay because {layer.why}" if layer.held else f": {layer.why}" if layer.why else ""
    yield f"<g><title>{escape(name)}: {layer.macs:.2%} of the MACs, {layer.free:,} channels can be removed{escape(why)}</title>"
    yield f'<text x="{LABEL - 6}" y="{y + 10}" text-anchor="end">{escape(shown)}</text>'
    x = float(LABEL)
    for colour, share in parts:
        width = max(BAR * length * share, 0.5 * (share > 0))
        yield f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{ROW - 3}" fill="{colour}"/>'
        x += width
    yield f'<text x="{x + 5:.1f}" y="{y + 10}" fill="#555">{layer.macs:.1%}</text></g>'
