# SPDX-License-Identifier: Apache-2.0
"""Changes to a module and its optimizer that are undone if one of them fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

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

    def move(self, owner: dict[Any, Any], old: Any, new: Any) -> None:
        """Give a value in a dictionary another key."""
        self._undo.append(lambda: owner.__setitem__(old, owner.pop(new)))
        owner[new] = owner.pop(old)

    def put(self, owner: Any, key: Any, value: Any) -> None:
        """Replace a value in a dictionary or a list."""
        old = owner[key]
        self._undo.append(lambda: owner.__setitem__(key, old))
        owner[key] = value

    def fill(self, tensor: Tensor, data: Tensor) -> None:
        """Give a tensor other contents, also of another shape; it stays the same object."""
        old, grad = tensor.data, tensor.grad

        def undo() -> None:
            tensor.data, tensor.grad = old, grad

        self._undo.append(undo)
        tensor.grad = None
        tensor.data = data

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Undo everything, last change first, if an error is raised."""
        try:
            yield
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise
