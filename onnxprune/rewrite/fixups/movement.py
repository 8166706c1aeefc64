# SPDX-License-Identifier: Apache-2.0
"""Stored sizes, bounds and indices of operators that move elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.analysis.rules.site import Unsupported
from onnxprune.rewrite.patch import Fixup, Patch
from onnxprune.types import Array, Indices

FAR = np.iinfo(np.int64).max


def reshape(patch: Patch) -> None:
    """Reshape: update the sizes in the operand; 0 and -1 are kept where they still give the right size."""
    old, shapes = patch.known(1), patch.out_shapes()
    if _resolves(patch, patch.new(1), shapes):
        patch.settled.add(1)
        return
    keep = [np.where(np.isin(o, (0, -1)), o, s) for o, s in zip(old, shapes, strict=True)]
    plain = [np.array(s, np.int64) for s in shapes]
    for wanted in (keep, plain):
        if _resolves(patch, wanted, shapes):
            try:
                patch.set_operand(1, wanted)
                return
            except Unsupported:
                continue
    # -1 can stand for one dynamic size
    first = plain[0]
    moving = np.any([first != p for p in plain], axis=0) if len({p.shape for p in plain}) == 1 else np.ones(2, bool)
    if moving.sum() == 1:
        patch.set_operand(1, [np.where(moving, -1, p) for p in plain])
        return
    raise Unsupported("reshapes to sizes that cannot be updated")


def _resolves(patch: Patch, operands: Sequence[Array | None], shapes: list[tuple[int, ...]]) -> bool:
    """Whether these operands give these shapes."""
    for case, (operand, shape) in enumerate(zip(operands, shapes, strict=True)):
        data = patch.cutting.facts[case][patch.node.inputs[0]].shape
        if operand is None or data is None or len(operand) != len(shape):
            return False
        zero_copies = not patch.node.attribute("allowzero", 0)
        dims = [data[k] if v == 0 and zero_copies and k < len(data) else int(v) for k, v in enumerate(operand)]
        if dims.count(-1) > 1:
            return False
        if -1 in dims:
            known = int(np.prod([d for d in dims if d != -1]))
            total = int(np.prod(data))
            if not known or total % known:
                return False
            dims[dims.index(-1)] = total // known
        if tuple(dims) != shape:
            return False
    return True


def expand(patch: Patch) -> None:
    """Expand: update the sizes in the operand to those of the output; ones stay ones."""
    wanted = []
    for old, shape in zip(patch.known(1), patch.out_shapes(), strict=True):
        tail = shape[len(shape) - len(old) :]
        wanted.append(np.array([1 if v == 1 else n for v, n in zip(old, tail, strict=True)], np.int64))
    patch.set_operand(1, wanted)


def constant_of_shape(patch: Patch) -> None:
    """ConstantOfShape: update the sizes."""
    patch.set_operand(0, [np.array(s, np.int64) for s in patch.out_shapes()])


def split(patch: Patch) -> None:
    """Split: update the size of each part."""
    axis = patch.node.attribute("axis", 0)
    kept = patch.mask(0, axis)
    if kept is None or kept.all():
        return
    given = patch.known(1)[0] if patch.has(1) else patch.node.attribute("split")
    count = len(patch.node.outputs)
    old = np.array(given if given is not None else [len(x) for x in np.array_split(kept, count)])
    if given is None and len(kept) % count:  # num_outputs: all parts but the last have the same size, rounded up
        part = -(-len(kept) // count)
        old = np.array([part] * (count - 1) + [len(kept) - part * (count - 1)])
    sizes = [int(x.sum()) for x in np.split(kept, np.cumsum(old)[:-1])]
    if given is None and len(set(sizes)) == 1:
        return
    if patch.node.opset < 13:
        patch.set_attribute("split", sizes)
    else:
        patch.set_attribute("num_outputs", None)
        patch.set_operand(1, [np.array(sizes, np.int64) for _ in patch.cases()])


def slices(patch: Patch) -> None:
    """Slice: move the bounds to the kept positions; where no bounds describe them, a Gather selects them."""
    new_style = patch.node.opset >= 10
    starts, ends, axes, steps = _bounds(patch, new_style)
    changed = False
    for j in range(len(axes[0])):
        axis = int(axes[0][j])
        kept = patch.mask(0, axis)
        if kept is None or kept.all():
            continue
        picked = np.arange(len(kept))[slice(*(int(b[0][j]) for b in (starts, ends, steps)))]
        place = np.cumsum(kept) - 1
        positions = place[picked[kept[picked]]]
        start, end, step = _progression(positions)
        if step == 0:
            start, end, step = 0, FAR, 1
            patch.gather_after(axis, positions)
        for case in patch.cases():
            starts[case][j], ends[case][j], steps[case][j] = start, end, step
        changed = True
    if not changed:
        return
    if not new_style:
        patch.set_attribute("starts", starts[0].tolist())
        patch.set_attribute("ends", ends[0].tolist())
        return
    kind = patch.known(1)[0].dtype
    far = np.iinfo(kind)
    for k, values in ((1, starts), (2, ends)):
        patch.set_operand(k, [v.clip(far.min, far.max).astype(kind) for v in values])
    if patch.has(4) or any((v != 1).any() for v in steps):
        if not patch.has(3):
            patch.set_operand(3, [v.astype(kind) for v in axes])
        patch.set_operand(4, [v.astype(kind) for v in steps])


def _bounds(patch: Patch, new_style: bool) -> list[list[Indices]]:
    """Starts, ends, axes (nonnegative) and steps, per case, as writable arrays."""
    rank = len(patch.cutting.masks(patch.node.inputs[0]))
    found: list[list[Indices]] = []
    for k, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps")):
        given = None if new_style else patch.node.attribute(name)
        if new_style and patch.has(k):
            values = patch.known(k)
        elif given is not None:
            values = [np.array(given) for _ in patch.cases()]
        else:
            count = len(found[0][0])
            values = [np.arange(count) if k == 3 else np.ones(count, int) for _ in patch.cases()]
        found.append([np.array(v, np.int64) % rank if k == 3 else np.array(v, np.int64) for v in values])
    return found


def _progression(positions: Indices) -> tuple[int, int, int]:
    """Start, end and step of a Slice that selects these positions in this order; step 0 if there is none."""
    if not len(positions):
        return 0, 0, 1
    first, last = int(positions[0]), int(positions[-1])
    if len(positions) == 1:
        return first, first + 1, 1
    steps = np.diff(positions)
    step = int(steps[0])
    if (steps != step).any():
        return 0, 0, 0
    if step > 0:
        return first, last + 1, step
    return first, last - 1 if last else -FAR, step


def gather(patch: Patch) -> None:
    """Gather: renumber indices to count only kept positions; drop indices of removed positions."""
    rank = len(patch.cutting.masks(patch.node.inputs[0]))
    axis = patch.node.attribute("axis", 0) % rank
    kept = patch.mask(0, axis)
    if kept is None or kept.all():
        return
    place = np.cumsum(kept) - 1
    wanted = []
    for given in patch.known(1):
        indices = given
        masks = [patch.out_mask(axis + k) for k in range(indices.ndim)]
        for k, mask in enumerate(masks):
            if mask is not None:
                indices = np.compress(mask, indices, k)
        indices = np.where(indices < 0, indices + len(kept), indices)
        if not kept[indices].all():
            raise Unsupported("selects a position that would be removed")
        wanted.append(np.asarray(place[indices], given.dtype))
    patch.set_operand(1, wanted)


def pad(patch: Patch) -> None:
    """Pad: added positions have labels too, so fewer of them may be kept."""
    shape = patch.cutting.graph.facts[patch.node.inputs[0]].cases[0].shape or ()
    new_style = patch.node.opset >= 11
    pads = np.array(patch.known(1)[0] if new_style else patch.node.attribute("pads"))
    axes = patch.known(3)[0] if new_style and patch.has(3) else np.arange(len(shape))
    changed = False
    for k, axis in enumerate(a % len(shape) for a in axes.tolist()):
        kept, begin, end = patch.out_mask(axis), int(pads[k]), int(pads[k + len(axes)])
        if kept is None or kept.all() or (begin == 0 and end == 0):
            continue
        if begin < 0 or end < 0:
            raise Unsupported("crops an axis that shrinks")
        pads[k], pads[k + len(axes)] = kept[:begin].sum(), kept[len(kept) - end :].sum() if end else 0
        changed = True
    if not changed:
        return
    if new_style:
        patch.set_operand(1, [pads for _ in patch.cases()])
    else:
        patch.set_attribute("pads", pads.tolist())


FIXUPS: Mapping[str, Fixup] = {
    "Reshape": reshape,
    "Expand": expand,
    "ConstantOfShape": constant_of_shape,
    "Split": split,
    "Slice": slices,
    "Gather": gather,
    "Pad": pad,
}
