# SPDX-License-Identifier: Apache-2.0
"""Nodes that are linear in a stored weight, written as one matrix product: rows of inputs times a matrix.

Convolutions become products by laying out the patch under the kernel for each output position (im2col); a transposed
convolution is a convolution of its input with zeros between the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnxprune.ir.graph import Node, Weight
from onnxprune.types import Array, Indices


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear node.

    Attributes:
        node: the node.
        weight: name of its weight.
        groups: number of independent products (grouped convolution).
        channel_axis: channel axis of the output.
        bias: index of the input that is added to each channel; None if the operator has no bias.
        kernel: sizes of the kernel; empty for matrix products.
    """

    node: Node = field(repr=False)
    weight: str
    groups: int
    channel_axis: int
    bias: int | None
    kernel: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of outputs and inputs of the stored weight; all others are those of the kernel."""
        outputs, inputs = KINDS[self.node.op].axes
        return (inputs, outputs) if self.node.attribute("transB", 0) else (outputs, inputs)

    def rows(self, x: Array, positions: Indices) -> Array:
        """The input rows of some output positions (groups, n_positions, n_inputs).

        Args:
            x: the node's first input.
            positions: flat indices into the output without its channel axis.
        """
        flat = KINDS[self.node.op].rows(self, x, positions)
        return flat.reshape(len(positions), self.groups, -1).transpose(1, 0, 2)

    def matrix(self, w: Array) -> Array:
        """The weight as matrices (groups, n_inputs, n_outputs / groups)."""
        return KINDS[self.node.op].matrix(self, w)

    def stored(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `matrix`: the weight in its own layout, of `shape`."""
        return KINDS[self.node.op].stored(self, matrix, shape)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one operator is laid out as a matrix product."""

    rows: Callable[[Linear, Array, Indices], Array]
    matrix: Callable[[Linear, Array], Array]
    stored: Callable[[Linear, Array, tuple[int, ...]], Array]
    axes: tuple[int, int]


def at_positions(x: Array, axis: int, positions: Indices) -> Array:
    """`x` at flat indices over all axes except `axis` (n_positions, size of that axis)."""
    before, channels, after = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
    grid = x.reshape(before, channels, after)
    found: Array = grid[positions // after, :, positions % after]
    return found


def every(x: Array, steps: tuple[int, ...], axis: int) -> Array:
    """A view of every `steps[k]`-th element of axis `axis + k`."""
    places: list[Any] = [slice(None)] * x.ndim
    places[axis : axis + len(steps)] = [slice(None, None, s) for s in steps]
    found: Array = x[tuple(places)]
    return found


def _patches(linear: Linear, x: Array, positions: Indices) -> Array:
    """The inputs under the kernel at some output positions (n_positions, channels * kernel)."""
    geometry = _geometry(linear, x.shape)
    if all(k == 1 for k in geometry.kernel) and not any(geometry.pads_begin + geometry.pads_end):
        return at_positions(np.ascontiguousarray(every(x, geometry.strides, 2)), 1, positions)
    wide = _padded(x, geometry.pads_begin, geometry.pads_end)
    span = tuple((k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True))
    spatial = tuple(range(2, x.ndim))
    view = np.asarray(sliding_window_view(wide, span, axis=spatial))
    view = every(every(view, geometry.strides, 2), geometry.dilations, view.ndim - len(span))
    return _picked(view, positions, len(span))


def _picked(view: Array, positions: Indices, rank: int) -> Array:
    """The windows (samples, channels, *rank spatial axes, *kernel) at flat positions (n_positions, channels * kernel)."""
    sample, *where = np.unravel_index(positions, (len(view), *view.shape[2 : 2 + rank]))
    picked: tuple[Any, ...] = (sample, slice(None), *where)
    found: Array = view[picked]
    return found.reshape(len(positions), -1)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Kernel, strides and so on, one number per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]


def _geometry(linear: Linear, shape: tuple[int, ...]) -> Geometry:
    node, kernel, rank = linear.node, linear.kernel, len(shape) - 2
    strides = tuple(node.attribute("strides", (1,) * rank))
    dilations = tuple(node.attribute("dilations", (1,) * rank))
    auto = node.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for s, k, d, n in zip(strides, kernel, dilations, shape[2:], strict=True)
        ]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (small, large) if auto == b"SAME_UPPER" else (large, small)
    elif auto == b"VALID":
        begin = end = (0,) * rank
    else:
        pads = tuple(node.attribute("pads", (0,) * 2 * rank))
        begin, end = pads[:rank], pads[rank:]
    return Geometry(kernel, strides, dilations, begin, end)


def _padded(x: Array, begin: tuple[int, ...], end: tuple[int, ...]) -> Array:
    """Pad the spatial axes with zeros; negative numbers crop."""
    wide = np.pad(x, ((0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in zip(begin, end, strict=True))))
    crop = (slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(begin, end, wide.shape[2:], strict=True))
    return wide[(slice(None), slice(None), *crop)]


def _spread_patches(linear: Linear, x: Array, positions: Indices) -> Array:
    """`_patches` for a transposed convolution: zeros between the elements, then a plain convolution with stride 1."""
    node, kernel, rank = linear.node, linear.kernel, x.ndim - 2
    strides, dilations = (tuple(node.attribute(name, (1,) * rank)) for name in ("strides", "dilations"))
    sizes = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))
    spread = np.zeros((*x.shape[:2], *sizes), x.dtype)
    every(spread, strides, 2)[...] = x
    pads, more = node.attribute("pads", (0,) * 2 * rank), node.attribute("output_padding", (0,) * rank)
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilations, strict=True))
    begin = tuple(r - p for r, p in zip(reach, pads[:rank], strict=True))
    end = tuple(r - p + m for r, p, m in zip(reach, pads[rank:], more, strict=True))
    wide = _padded(spread, begin, end)
    view: Array = sliding_window_view(wide, tuple(r + 1 for r in reach), axis=tuple(range(2, x.ndim)))
    return _picked(every(view, dilations, view.ndim - rank), positions, rank)


def _conv_matrix(linear: Linear, w: Array) -> Array:
    return w.reshape(linear.groups, w.shape[0] // linear.groups, -1).transpose(0, 2, 1)


def _conv_stored(linear: Linear, matrix: Array, shape: tuple[int, ...]) -> Array:
    return matrix.transpose(0, 2, 1).reshape(shape)


def _flipped(w: Array) -> Array:
    return w[(slice(None), slice(None), *(slice(None, None, -1),) * (w.ndim - 2))]


def _transposed_matrix(linear: Linear, w: Array) -> Array:
    grid = _flipped(w).reshape(linear.groups, -1, *w.shape[1:])
    return np.moveaxis(grid, 2, -1).reshape(linear.groups, -1, w.shape[1])


def _transposed_stored(linear: Linear, matrix: Array, shape: tuple[int, ...]) -> Array:
    grid = matrix.reshape(linear.groups, shape[0] // linear.groups, *shape[2:], shape[1])
    return _flipped(np.moveaxis(grid, -1, 2).reshape(shape))


def _vectors(linear: Linear, x: Array, positions: Indices) -> Array:
    found: Array = x.reshape(-1, x.shape[-1])[positions]
    return found


def _product_matrix(linear: Linear, w: Array) -> Array:
    turned: Array = w.T if linear.node.attribute("transB", 0) else w
    return turned[None]


def _product_stored(linear: Linear, matrix: Array, shape: tuple[int, ...]) -> Array:
    turned: Array = matrix[0].T if linear.node.attribute("transB", 0) else matrix[0]
    return turned


CONV = Kind(_patches, _conv_matrix, _conv_stored, (0, 1))
PRODUCT = Kind(_vectors, _product_matrix, _product_stored, (1, 0))
KINDS: Mapping[str, Kind] = {
    "Conv": CONV,
    "ConvTranspose": Kind(_spread_patches, _transposed_matrix, _transposed_stored, (1, 0)),
    "Gemm": PRODUCT,
    "MatMul": PRODUCT,
}


def linear_of(node: Node, weights: Mapping[str, Weight]) -> Linear | None:
    """The node as a matrix product with a stored floating-point weight; None if it is not one."""
    if node.op not in KINDS or len(node.inputs) < 2 or node.inputs[1] not in weights or node.inputs[0] in weights:
        return None
    weight = weights[node.inputs[1]]
    if not weight.is_float:
        return None
    if node.op == "MatMul":
        return Linear(node, weight.name, 1, -1, None) if len(weight.shape) == 2 else None
    if node.op == "Gemm":
        plain = node.attribute("alpha", 1.0) == 1.0 and node.attribute("beta", 1.0) == 1.0 and not node.attribute("transA", 0)
        return Linear(node, weight.name, 1, -1, 2) if plain else None
    if node.op == "ConvTranspose" and (node.attribute("output_shape") or b"SAME" in node.attribute("auto_pad", b"NOTSET")):
        return None  # the padding depends on the size that is asked for
    return Linear(node, weight.name, node.attribute("group", 1), 1, 2, weight.shape[2:])
