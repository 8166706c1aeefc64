# SPDX-License-Identifier: Apache-2.0
"""Changes to a module and its optimizer that are undone if one of them fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Changes:
    """Changes that can be undone."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        old = getattr(owner, name, None)
        new = name not in vars(owner) and old is None
        self._undo.append(lambda: delattr(owner, name) if new else setattr(owner, name, old))
        setattr(owner, name, value)

    def put(self, owner: Any, key: Any, value: Any) -> None:
        """Replace a value in a dictionary or a list."""
        old = owner[key]
        self._undo.append(lambda: owner.__setitem__(key, old))
        owner[key] = value

    def fill(self, tensor: Tensor, data: Tensor) -> None:
        """Give a tensor other contents, also of another shape; it stays the same object."""
        old, grad = tensor.data, tensor.grad

        def undo() -> None:
            _set(tensor, old)
            tensor.grad = grad

        self._undo.append(undo)
        tensor.grad = None
        _set(tensor, data)

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Undo everything, last change first, if an error is raised."""
        try:
            yield
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise


def _set(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor other contents.

    As long as an earlier loss is alive, autograd goes on expecting gradients of the old shape. PyTorch forgets that only if
    the type changes.
    """
    other = torch.float32 if data.dtype == torch.float64 else torch.float64
    tensor.data = torch.empty(0, dtype=other, device=data.device)
    tensor.data = data
