# SPDX-License-Identifier: Apache-2.0
"""Convolutions: the number of groups, and zeros for removed channels on axes along which they slide."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.rules.site import Unsupported
from onnxprune.rewrite.fixups.restoring import in_place
from onnxprune.rewrite.patch import Fixup, Patch


def sliding(patch: Patch) -> None:
    """Conv: put zeros at removed channels on the axes along which it slides."""
    for axis in range(2, len(patch.cutting.masks(patch.node.inputs[0]))):
        in_place(patch, axis)


def group(patch: Patch) -> None:
    """Convolutions: compute the number of groups from the cut input and the cut weight."""
    if patch.node.op == "Conv":
        sliding(patch)
    if patch.node.attribute("group", 1) == 1:
        return
    place = 3 if "QLinear" in patch.node.op else 1
    ins = patch.cutting.facts[0][patch.node.inputs[0]].shape
    weight = patch.cutting.facts[0][patch.node.inputs[place]].shape
    if ins is None or weight is None:
        raise Unsupported("has inputs of unknown shape")
    old = patch.cutting.graph.facts[patch.node.inputs[place]].cases[0].shape or ()
    if patch.node.op != "ConvTranspose":
        new = ins[-1 if patch.node.attribute("channels_last", 0) else 1] // weight[1]
    else:  # the weight of ConvTranspose has one row per input channel: whole groups are removed, or each group shrinks
        whole = weight[1] == old[1] and ins[1] % (old[0] // patch.node.attribute("group")) == 0
        new = (
            ins[1] // (old[0] // patch.node.attribute("group"))
            if whole and _whole_groups(patch)
            else patch.node.attribute("group")
        )
    patch.set_attribute("group", int(new))


def _whole_groups(patch: Patch) -> bool:
    mask = patch.mask(1, 0)
    if mask is None:
        return False
    rows = mask.reshape(patch.node.attribute("group"), -1)
    return bool((rows.all(1) | ~rows.any(1)).all())


FIXUPS: Mapping[str, Fixup] = {
    "Conv": group,
    "ConvInteger": group,
    "ConvTranspose": group,
    "DeformConv": group,
    "QLinearConv": group,
    "com.microsoft.QLinearConv": group,
    "com.microsoft.FusedConv": group,
}
