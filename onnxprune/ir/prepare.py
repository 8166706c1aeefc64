# SPDX-License-Identifier: Apache-2.0
"""From the model as it is in the file to the one that is analysed and cut: it computes the same, and is easier to read.

Functions are inlined, nodes sorted, constants written in one form, weights that are computed from weights stored, and what
runtimes forgive is mended where the right value is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

from onnxprune.ir.constants import plain_constants
from onnxprune.ir.fold import fold
from onnxprune.ir.functions import inlined
from onnxprune.ir.graph import read_weights
from onnxprune.ir.mend import mended
from onnxprune.ir.normalize import normal_form
from onnxprune.ir.order import in_order


@dataclass(frozen=True)
class Prepared:
    """A model that can be analysed.

    Attributes:
        model: the model.
        derived: names of its weights that the file does not store: from functions, or computed from other weights.
        warnings: what was wrong with the file, and what was done about it.
        replaced: tensor of the file that is gone -> the weight that was computed from it.
    """

    model: ModelProto = field(repr=False)
    derived: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)


def prepared(model: ModelProto, folds: bool = True) -> Prepared:
    """A model that can be analysed, from the one in a file.

    Args:
        folds: whether weights that are computed from others are stored.

    Raises:
        ModelError: the nodes are in a cycle, or a function calls itself.
    """
    own = stored_names(model)
    sorted_model, late = in_order(inlined(model))
    good, mends = mended(plain_constants(sorted_model))
    plain = normal_form(good)
    result, replaced = fold(plain) if folds else (plain, {})
    warnings = (f"{late}; the nodes were sorted", *mends) if late else mends
    return Prepared(result, frozenset(read_weights(result).keys() - own), warnings, replaced)


def stored_names(model: ModelProto) -> set[str]:
    """Names of the tensors that the main graph of a file stores, in whatever form."""
    initializers = (t.name for t in model.graph.initializer)
    sparse = (t.values.name for t in model.graph.sparse_initializer)
    constants = (n.output[0] for n in model.graph.node if n.op_type == "Constant")
    return {*initializers, *sparse, *constants}
