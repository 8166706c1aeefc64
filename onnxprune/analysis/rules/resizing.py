# SPDX-License-Identifier: Apache-2.0
"""Operators that change sizes, or read them."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.labels import Axis, Flow, Residue
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, everywhere, rules


def resize(site: Site) -> list[Flow]:
    """Resize, Upsample: axes that keep their size in all cases pass; interpolation along the others keeps zeros zero."""
    if site.node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        raise Unsupported("crops and resizes at once")
    flow = site.flow(0)
    scaled = _scaled(site)
    axes: list[Axis] = []
    for k, labels in enumerate(flow.axes):
        same = k not in scaled and all(
            (a.shape or ())[k] == (b.shape or ())[k] for a, b in zip(site.cases(0), site.out_cases(), strict=True)
        )
        if not same:
            site.pin(labels, "resizes this axis")
        axes.append(labels if same else None)
    return [Flow(tuple(axes), tuple(r if r is Residue.ZERO else Residue.UNKNOWN for r in flow.residue))]


def _scaled(site: Site) -> set[int]:
    """Axes with a scale other than one, which rounding may hide in the sizes."""
    place = 2 if site.node.op == "Resize" and site.node.opset >= 11 else 1
    scales = site.value(place)
    if scales is None or not scales.size:
        return set()
    axes = site.node.attribute("axes") or range(scales.size)
    return {axis for axis, scale in zip(axes, scales.tolist(), strict=True) if scale != 1.0}


def observe(site: Site) -> list[Flow]:
    """Shape, Size: sizes are read from the smaller tensor, and the cut handles consumers that need the old ones."""
    unknown = any(c.value is None for c in site.out_cases())
    for labels in site.flow(0).axes:
        if labels is None:
            continue
        if unknown:
            site.pin(labels, "reads their number, and other sizes are unknown")
        else:
            site.labels.touched.append(labels)
    return [Flow.plain(site.rank())]


RULES: Mapping[str, Rule] = {**rules(resize, "Resize", "Upsample"), **rules(observe, "Shape", "Size", maskable=everywhere)}
