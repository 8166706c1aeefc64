# SPDX-License-Identifier: Apache-2.0
"""Small questions about a user's PyTorch module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxprune.errors import TrainingError, first_line

WRAPPERS = ("module", "_orig_mod")
"""Attributes under which DataParallel, DistributedDataParallel and torch.compile keep the module that they wrap."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, without the wrappers of parallel training and compilation."""
    while True:
        wrapper = type(module).__module__.startswith("torch.")
        inner = next((m for a in WRAPPERS if wrapper and isinstance(m := getattr(module, a, None), nn.Module)), None)
        if inner is None:
            return module
        module = inner


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU if there is none."""
    first = next((t for found in (module.parameters(), module.buffers()) for t in found), None)
    return torch.device("cpu") if first is None else first.device


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """With the module in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def cause_of(e: BaseException) -> BaseException:
    """The error that an error was raised from, in the end."""
    while e.__cause__ is not None:
        e = e.__cause__
    return e


def outputs_of(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a module, flat.

    Raises:
        TrainingError: it cannot run on these inputs.
    """
    try:
        with torch.no_grad():
            found = pytree.tree_leaves(module(*inputs))
    except Exception as e:  # whatever the user's code raises
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise TrainingError(
            f"example_inputs: {type(module).__name__} cannot run on inputs of shape {shapes}: {first_line(e)}"
        ) from e
    if not (tensors := [y for y in found if isinstance(y, Tensor)]):
        got = ", ".join(sorted({type(y).__name__ for y in found})) or "nothing"
        raise TrainingError(
            f"{type(module).__name__}: forward returns {got}; return a tensor, or a tuple, list or dict of tensors"
        )
    return tensors
