# SPDX-License-Identifier: Apache-2.0
"""What an operator of the table receives besides its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Op = Callable[..., Any]
"""(call, *operands) -> a tensor, a tuple of tensors, or NotImplemented for a variant that is left to onnxruntime.

Operands are tensors; numpy arrays at positions listed in `NUMBERS` (or in `PERHAPS_NUMBERS`, if the value does not depend on
data); and None if absent.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One use of an operator.

    Attributes:
        op: operator with its domain, as in `Node.op`.
        opset: version of its domain.
        attributes: values by name; strings are bytes, as ONNX stores them.
        outputs: number of outputs.
        used: number of outputs up to the last one with a consumer, at least 1.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: int = 1
    used: int = 1

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return self.attributes.get(name, default)

    def text(self, name: str, default: str) -> str:
        """The value of a string attribute."""
        found = self.attributes.get(name)
        return default if found is None else found.decode()

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """The value of a list attribute."""
        return list(self.attributes.get(name, default))


def plain(function: Callable[..., Any]) -> Op:
    """An operator without attributes: the operands are the arguments."""
    return lambda call, *operands: function(*operands)
