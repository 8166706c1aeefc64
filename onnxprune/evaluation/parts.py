# SPDX-License-Identifier: Apache-2.0
"""Parts of a model's outputs that mean different things, such as the boxes and the scores that a detector concatenates.

What an element of an output is made from shows in the graph: the nodes before the output that only move elements (Concat,
Reshape, Transpose, ...) are run on the *number* of each tensor that enters them instead of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxprune.calibration.stages import Piece, part, stages
from onnxprune.errors import PruneError
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import Node, read_nodes, read_weights
from onnxprune.ort import session
from onnxprune.types import Array, Feeds, Indices

MOVES = frozenset("Cast Concat Flatten Gather Identity Reshape Slice Squeeze Transpose Unsqueeze".split())
"""Operators that move the elements of their first input; Concat of all its inputs."""
MAX_PARTS = 16
"""An output of more parts than this is judged as a whole."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an output.

    Attributes:
        name: of the output, with the positions if it is not the whole output, as in `y[:, 0:4]`.
        output: name of the output.
        axis: the axis on which its positions lie; None if it is the whole output.
        positions: indices on that axis.
    """

    name: str
    output: str
    axis: int | None = None
    positions: Indices | None = None

    def of(self, outputs: Mapping[str, Array]) -> Array:
        """The part of one batch of outputs."""
        value = outputs[self.output]
        return value if self.axis is None or self.positions is None else value.take(self.positions, self.axis)


def parts_of(model: ModelProto, feeds: Feeds) -> tuple[Part, ...]:
    """All parts of all outputs of a model, in their order.

    Args:
        model: the model.
        feeds: inputs of one run.
    """
    nodes, stored = read_nodes(model), set(read_weights(model))
    made = {o: n for n in nodes for o in n.outputs}
    found: list[Part] = []
    for value in model.graph.output:
        tail = _tail(value.name, made)
        joins = any(node.op == "Concat" for node in tail)
        found += (_split(model, value.name, tail, stored, feeds) if joins else None) or [Part(value.name, value.name)]
    return tuple(found)


def _tail(output: str, made: Mapping[str, Node]) -> list[Node]:
    """The nodes before an output that only move elements, in graph order."""
    found: dict[int, Node] = {}
    queue = [output]
    while queue:
        node = made.get(queue.pop())
        if node is not None and node.op in MOVES and node.index not in found:
            found[node.index] = node
            queue += node.inputs if node.op == "Concat" else node.inputs[:1]
    return [found[k] for k in sorted(found)]


def _split(model: ModelProto, output: str, tail: list[Node], stored: set[str], feeds: Feeds) -> list[Part] | None:
    """The parts of an output; None if it has only one, or if they cannot be told apart."""
    moved = {o for n in tail for o in n.outputs}
    entering = {x for n in tail for x in (n.inputs if n.op == "Concat" else n.inputs[:1]) if x not in moved}
    others = {x for n in tail for x in n.inputs if x and x not in moved | entering}
    try:
        numbers = _numbers(model, output, tail, sorted(entering), sorted(others - stored), feeds)
    except Exception:  # whatever onnxruntime raises: the output is judged as a whole
        return None
    varying = [k for k in range(numbers.ndim) if (numbers != numbers.take([0], k)).any()]
    if not varying:
        return None
    axis = min(varying, key=lambda k: numbers.shape[k])
    columns = np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)
    kinds = np.unique(columns, axis=0, return_inverse=True)[1].ravel()
    if kinds.max() >= MAX_PARTS:
        return None
    first = sorted(range(kinds.max() + 1), key=lambda k: int(np.argmax(kinds == k)))
    return [_part(output, axis, np.flatnonzero(kinds == k)) for k in first]


def _part(output: str, axis: int, positions: Indices) -> Part:
    whole = positions[-1] - positions[0] + 1 == len(positions)
    where = f"{positions[0]}:{positions[-1] + 1}" if whole else f"{positions[0]},{positions[1]},..."
    return Part(f"{output}[{':, ' * axis}{where}]", output, axis, positions)


def _numbers(model: ModelProto, output: str, tail: list[Node], entering: list[str], others: list[str], feeds: Feeds) -> Array:
    """The output with each element replaced by the number of the tensor that it comes from."""
    weights = read_weights(model)
    computed = [name for name in (*entering, *others) if name not in weights]
    with stages(model, [computed], [feeds]) as run:
        values = next(iter(run.advance(0)))
    stored = {name: weights[name].array for name in entering if name in weights}
    numbered = {name: np.full_like((values | stored)[name], k) for k, name in enumerate(entering)}
    if any(x.dtype.kind not in "fiu" for x in numbered.values()):
        raise PruneError(f"{output}: its parts are no numbers")
    given = values | numbered
    with runnable(part(model, Piece(tuple(n.index for n in tail), tuple(given), (output,)), given)) as source:
        return np.asarray(session(source).run([output], given)[0])
