# SPDX-License-Identifier: Apache-2.0
"""Several processes that train together: one decides and writes, the others follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def decided(decide: Callable[[], T]) -> T:
    """What the main process decides, in all processes; its error is raised in all of them."""
    if not _several():
        return decide()
    sent: list[tuple[T | None, Exception | None]] = [(None, None)]
    if distributed.get_rank() == 0:
        try:
            sent = [(decide(), None)]
        except Exception as e:  # re-raised below, in every process
            sent = [(None, e)]
    distributed.broadcast_object_list(sent, src=0)
    found, error = sent[0]
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
