# SPDX-License-Identifier: Apache-2.0
"""An ONNX model as a PyTorch module: an interpreter of the graph, differentiable with respect to every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from onnxprune.errors import TrainingError, first_line
from onnxprune.ir.infer import evaluate
from onnxprune.ort import run_node
from onnxprune.training.converter import program as programs
from onnxprune.training.converter.ops import NUMBERS, OPS, PERHAPS_NUMBERS
from onnxprune.training.converter.ops.elementwise import half_as_float, to_torch
from onnxprune.training.converter.program import Instruction, read_program
from onnxprune.types import Array

Feeds = Mapping[str, Any]
MAX_SHAPES = 8
"""Maximum number of combinations of input shapes whose static values are cached."""


class Known:
    """Values that follow from the shapes of the inputs, as arrays, and as tensors on request."""

    def __init__(self, stored: Mapping[str, Array], device: torch.device) -> None:
        self.arrays: dict[str, Array] = dict(stored)
        self._tensors: dict[str, Tensor] = {}
        self._device = device

    def tensor(self, name: str) -> Tensor:
        """One value on the module's device."""
        found = self._tensors.get(name)
        if found is None:
            with torch.inference_mode(False):
                found = self._tensors[name] = to_torch(self.arrays[name]).to(self._device)
        return found


class Module(nn.Module):
    """A model whose parameters are its stored float tensors, named as in the file.

    Computes in float32 (float64 where the file does). Operators without an entry in the table are run by onnxruntime, and no
    gradient passes through them. BatchNormalization uses its running statistics, unless `momentum` is set: then it normalises
    with batch statistics and updates the running ones, as in training.
    """

    def __init__(self, model: ModelProto) -> None:
        """Read the graph.

        Args:
            model: a valid model with its weights in memory; it is not changed.
        """
        super().__init__()
        self.program = read_program(model)
        self.momentum: float | None = None
        # directly into nn.Module's tables: its methods reject names with a dot, which most names in files contain
        for name, array in self.program.weights.items():
            self._parameters[name] = nn.Parameter(to_torch(array))
        for name, array in self.program.statistics.items():
            self._buffers[name] = to_torch(array)
        self.views: dict[str, Callable[[Tensor], Tensor]] = {}
        self._known: dict[Any, Known] = {}
        self._plan = lru_cache(8)(self._plan_for)

    def forward(self, feeds: Feeds, wanted: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the model.

        Args:
            feeds: input name -> tensor or array.
            wanted: tensors of the graph to return; the model's outputs by default. Only what they need is run.

        Raises:
            TrainingError: an operator cannot be run, or rejects its operands.
        """
        device = self.device
        given = {n: (x if isinstance(x, Tensor) else to_torch(np.asarray(x))).to(device) for n, x in feeds.items()}
        values: dict[str, Any] = {**self.weights(), **self._buffers, **given}
        known = self._known_for((device, *((n, tuple(x.shape)) for n, x in given.items())))
        names = tuple(wanted) or self.program.outputs
        for step, done in self._plan(names):
            if not step.static or step.outputs[0] not in known.arrays:
                self._run(step, values, known)
            for name in done:
                values.pop(name, None)
        return {n: values[n] if n in values else known.tensor(n) for n in names}

    def weights(self) -> dict[str, Tensor]:
        """The weights that the operators read: the parameters, seen through `views`."""
        return {n: self.views[n](p) if n in self.views else p for n, p in self._parameters.items() if p is not None}

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        first = next((p for p in (*self._parameters.values(), *self._buffers.values()) if p is not None), None)
        return torch.device("cpu") if first is None else first.device

    def _known_for(self, key: Any) -> Known:
        if key not in self._known:
            if len(self._known) >= MAX_SHAPES:
                self._known.pop(next(iter(self._known)))
            self._known[key] = Known(self.program.stored, key[0])
        return self._known[key]

    def _plan_for(self, wanted: tuple[str, ...]) -> list[tuple[Instruction, tuple[str, ...]]]:
        """The steps that `wanted` needs, each with the tensors that are no longer used after it."""
        needed, plan = set(wanted), []
        for step in reversed(self.program.steps):
            if needed.intersection(step.outputs):
                reads = {name for name in (*step.inputs, *step.implicit) if name}
                done = (reads | set(step.outputs)) - needed
                plan.append((step, tuple(done)))
                needed |= reads
        return plan[::-1]

    def _run(self, step: Instruction, values: dict[str, Any], known: Known) -> None:
        """Compute one step into `values`, or into `known` if it is static."""
        if step.static and step.call.op not in ("Shape", "Size"):
            arrays = evaluate(step.node, step.opsets, [known.arrays[n] if n else None for n in step.inputs])
            if arrays is not None:
                known.arrays.update({n: half_as_float(x) for n, x in zip(step.outputs, arrays, strict=False) if n})
                return
        found = self._branch(step, values, known) if step.branches else self._compute(step, values, known)
        for name, x in zip(step.outputs, found, strict=False):
            if name and step.static:
                known.arrays[name] = x.detach().cpu().numpy()
            elif name:
                values[name] = x if x is None or x.device == self.device else x.to(self.device)

    def _branch(self, step: Instruction, values: dict[str, Any], known: Known) -> Sequence[Any]:
        chosen = "then_branch" if bool(_array(step.inputs[0], values, known).all()) else "else_branch"
        steps, outputs = step.branches[chosen]
        inner = dict(values)
        for each in steps:
            self._run(each, inner, known)
        return [_tensor(n, inner, known) for n in outputs]

    def _compute(self, step: Instruction, values: Mapping[str, Any], known: Known) -> Sequence[Any]:
        op = OPS.get(step.call.op)
        if op is not None:
            operands = [_operand(step, k, name, values, known) for k, name in enumerate(step.inputs)]
            more = {"momentum": self.momentum} if step.call.op == "BatchNormalization" else {}
            try:
                found = op(step.call, *operands, **more)
            except (RuntimeError, ValueError, TypeError, IndexError) as e:
                raise TrainingError(f"{step}: PyTorch rejects its operands: {first_line(e)}") from e
            if found is not NotImplemented:
                return found if isinstance(found, (tuple, list)) else (found,)
        return self._fallback(step, values, known)

    def _fallback(self, step: Instruction, values: Mapping[str, Any], known: Known) -> Sequence[Tensor]:
        """Run a step in onnxruntime, or in ONNX's reference evaluator; no gradient passes."""
        reads = [n for n in dict.fromkeys((*step.inputs, *step.implicit)) if n]
        constants = {n: known.arrays[n] for n in reads if n not in values}
        operands = {n: _array(n, values, known) for n in reads if n in values}
        named = [n for n in step.outputs if n]
        found: Sequence[Any] | None
        try:
            found = run_node(step.node, named, step.opsets, operands, constants)
        except Exception as e:  # onnxruntime raises its own exceptions
            found = evaluate(step.node, step.opsets, [(operands | constants).get(n) for n in step.inputs])
            if found is None:
                raise TrainingError(f"{step}: PyTorch and onnxruntime cannot run it: {first_line(e)}") from e
            named = list(step.outputs[: len(found)])
        if not all(isinstance(x, np.ndarray) for x in found):
            raise TrainingError(f"{step}: outputs a sequence, which cannot be trained through; export without sequences")
        by_name = dict(zip(named, found, strict=True))
        return [to_torch(by_name[n]) if n in by_name else None for n in step.outputs]  # type: ignore[misc]


def _operand(step: Instruction, k: int, name: str, values: Mapping[str, Any], known: Known) -> Any:
    """One operand as its operator expects it: a tensor, an array, or None."""
    if not name:
        return None
    if k in NUMBERS.get(step.call.op, ()):
        return _array(name, values, known)
    if k in PERHAPS_NUMBERS.get(step.call.op, ()) and name in known.arrays and name not in values:
        return known.arrays[name]
    return _tensor(name, values, known)


def _tensor(name: str, values: Mapping[str, Any], known: Known) -> Tensor:
    found = values.get(name)
    return known.tensor(name) if found is None else found


def _array(name: str, values: Mapping[str, Any], known: Known) -> Array:
    found = values.get(name)
    return known.arrays[name] if found is None else found.detach().cpu().numpy()


def write_back(module: Module, model: ModelProto) -> ModelProto:
    """A copy of the model with the module's weights and running statistics, under the same names.

    Types, names and everything else are unchanged; an unchanged tensor is preserved bit for bit.

    Args:
        module: made from `model`, or from one with the same stored tensors.
        model: the model to copy; it is not changed.

    Raises:
        TrainingError: the module belongs to another model.
    """
    tensors = {**module.weights(), **module._buffers}
    return programs.write_back({n: x.detach().cpu().numpy() for n, x in tensors.items() if x is not None}, model)


def reestimate(module: Module, batches: Iterable[Feeds]) -> None:
    """Set BatchNormalization's running statistics to their averages over some batches (at least one)."""
    before, grad = module.momentum, torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        for k, feeds in enumerate(batches):
            module.momentum = 1.0 / (k + 1)
            module(feeds)
    finally:
        torch.set_grad_enabled(grad)
        module.momentum = before
