# SPDX-License-Identifier: Apache-2.0
"""Distillation as a term of the user's own loss: the unpruned network teaches the pruned one while it is retrained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxprune.errors import OptionError, TrainingError
from onnxprune.rewrite.plan import Plan
from onnxprune.training.distillation.losses import log_softmax, of_classes, values, varied
from onnxprune.training.modules import unwrapped

NORMALISED = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
LINEAR = (nn.modules.conv._ConvNd, nn.Linear)
TEMPERATURE, FEATURES, SHARE = 4.0, 5, 0.5


@dataclass(frozen=True)
class Feature:
    """A layer whose output is compared.

    Attributes:
        name: of the layer, in both modules.
        axis: of the channels in its output.
        kept: positions of the teacher's channels that the student has; None for all.
    """

    name: str
    axis: int
    kept: tuple[int, ...] | None


class Distillation:
    """How far a pruned module is from the module that it was cut from, as a term of a loss.

    Class scores are compared by their softened probabilities (Hinton et al., 2015), other outputs by their squared error
    relative to the teacher's variance, and outputs of layers inside by their squared error relative to the teacher's mean
    square, on the channels that the student has (FitNets, Romero et al., 2015, without adapters).

        distillation = Distillation(original, pruned, plan)
        loss = cross_entropy(outputs, labels) + distillation(inputs, outputs)

    Args:
        teacher: the original module. It is copied, runs in evaluation mode, and is never trained.
        student: the pruned module, wrapped or not.
        plan: what leads from the teacher to the student; None if the student was not cut.
        temperature: of class scores.
        features: how many layers inside are compared, evenly spaced; or their names.
        share: total weight of the layers inside, relative to 1 for the outputs.
        classes: whether outputs are class scores; None: outputs of two axes and more than one column are.

    Raises:
        OptionError: a number is out of range, or a layer does not exist.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        plan: Plan | None = None,
        *,
        temperature: float = TEMPERATURE,
        features: int | Sequence[str] = FEATURES,
        share: float = SHARE,
        classes: bool | None = None,
    ) -> None:
        if not temperature > 0 or not share >= 0:
            raise OptionError(f"distillation: got temperature {temperature}, share {share}; expected above 0, and at least 0")
        self.teacher = copy.deepcopy(unwrapped(teacher)).eval().requires_grad_(False)
        self._student, self._temperature, self._share, self._classes = unwrapped(student), temperature, share, classes
        known = dict(_layers(self.teacher, plan))
        self.features = tuple(_chosen(known, features)) if share else ()
        self._seen: dict[str, Tensor] = {}
        self._hooks = [self._student.get_submodule(f.name).register_forward_hook(self._keep(f.name)) for f in self.features]

    def __call__(self, inputs: Tensor | Sequence[Any], outputs: Any) -> Tensor:
        """The loss.

        Args:
            inputs: what the student was just called with: a tensor, or one for each argument.
            outputs: what it returned: a tensor, or any structure of tensors.

        Raises:
            TrainingError: the student was not run before, or its outputs have other shapes than the teacher's.
        """
        arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        found: dict[str, Tensor] = {}
        hooks = [self.teacher.get_submodule(f.name).register_forward_hook(self._keep(f.name, found)) for f in self.features]
        try:
            with torch.no_grad():
                expected = pytree.tree_leaves(self.teacher(*arguments))
        finally:
            for hook in hooks:
                hook.remove()
        given = [y for y in pytree.tree_leaves(outputs) if isinstance(y, Tensor)]
        wanted = [y for y in expected if isinstance(y, Tensor)]
        if [y.shape for y in given] != [y.shape for y in wanted]:
            got, need = ([list(y.shape) for y in ys] for ys in (given, wanted))
            raise TrainingError(
                f"distillation: got outputs of shape {got}, expected {need}: pass the student's for these inputs"
            )
        ends = [self._end(a.float(), b.float()) for a, b in zip(given, wanted, strict=True) if b.is_floating_point()]
        return torch.stack(ends).mean() + self._inside(found)

    def close(self) -> None:
        """Stop watching the student; do so before it is copied, exported or cut again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _keep(self, name: str, places: dict[str, Tensor] | None = None) -> Any:
        """A hook that keeps the output of a layer."""

        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            (self._seen if places is None else places)[name] = output

        return hook

    def _end(self, student: Tensor, teacher: Tensor) -> Tensor:
        classes = teacher.ndim == 2 and teacher.shape[1] > 1 if self._classes is None else self._classes
        if classes:
            return of_classes("", log_softmax(1), 1.0, self._temperature).loss(student, teacher)
        return varied(student, teacher)

    def _inside(self, found: Mapping[str, Tensor]) -> Tensor:
        """The loss of the layers inside."""
        terms = []
        for f in self.features:
            student, teacher = self._seen.pop(f.name, None), found[f.name]
            if student is None:
                raise TrainingError(f"distillation: the student's '{f.name}' was not run; call the student before the loss")
            if f.kept is not None:
                teacher = teacher.index_select(f.axis, torch.tensor(f.kept, device=teacher.device))
            terms.append(values(student.float(), teacher.float()))
        device = next(iter(found.values())).device if found else torch.device("cpu")
        return self._share * torch.stack(terms).mean() if terms else torch.zeros((), device=device)


def _layers(module: nn.Module, plan: Plan | None) -> Iterator[tuple[str, Feature]]:
    """Layers that make channels: normalisations, or convolutions and linear layers if there are too few of them."""
    kept = plan.kept if plan else {}
    for kinds in (NORMALISED, LINEAR):
        found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
        if len(found) > 1 or kinds is LINEAR:
            for name, layer in found:
                last = isinstance(layer, nn.Linear | nn.LayerNorm | nn.RMSNorm)
                own = [kept.get(f"{name}.{n}", {}) for n in ("weight", "running_mean")]
                transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
                axes = next((axes for axes in own if axes), {})
                yield name, Feature(name, -1 if last else 1, axes.get(1 if transposed else 0))
            return


def _chosen(known: Mapping[str, Feature], wanted: int | Sequence[str]) -> Iterator[Feature]:
    """Layers by name, or evenly spaced ones."""
    if not isinstance(wanted, int):
        for name in wanted:
            if name not in known:
                raise OptionError(f"features: '{name}' is not a layer whose outputs are compared; there are {', '.join(known)}")
            yield known[name]
        return
    if wanted < 0:
        raise OptionError(f"features: got {wanted}, expected a number of layers, or names")
    places = torch.linspace(0, len(known) - 1, min(wanted, len(known))).round().int().tolist()
    for place in dict.fromkeys(places):
        yield list(known.values())[place]
