# SPDX-License-Identifier: Apache-2.0
"""One training loop for all networks here: SGD, a one-cycle schedule, and Hugging Face Accelerate for devices and processes.

Sparsity and a teacher are objects, as in any other loop: `loss + sparsity(model)`, `loss + teacher(images, logits)`, and
`sparsity.step(optimizer)` after the optimizer's step.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import onnxruntime
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from models.checkpoints import Checkpoint
from models.datasets import Data, Split, augmented, batches
from onnxprune.errors import OptionError, TrainingError, first_line
from onnxprune.training.modules import device_of, evaluating
from onnxprune.training.processes import decided
from onnxprune.training.sparsity import Regularizer, parameter_groups

Teacher = Callable[[Tensor, Tensor], Tensor]
"""(images, the network's logits) -> a loss to add: what another network says about the same images."""
State = dict[str, Tensor]
JUDGED = 500
"""Images run together to measure accuracy."""
EPOCHS_APART = 1_000_003
"""Difference between the seeds of an epoch and the next: more than seeds of trainings and processes differ by."""
ADVICE = "Use a lower learning rate (--rate), or weaker sparsity"


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch: images a step, over all processes.
        rate: the highest learning rate of the one-cycle schedule (Smith and Topin, 2018).
        momentum, weight_decay: of SGD with Nesterov momentum.
        seed: of the order of the images, their mirrors and their shifts.
        keep_best: whether to end with the weights of the best epoch on the held-out images, not with the last.
        precision: "no", "bf16" or "fp16" for mixed precision; None: as `accelerate launch` says, or "no".
        cpu: whether to stay on the CPU where there is another device.
    """

    epochs: int = 15
    batch: int = 128
    rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    keep_best: bool = False
    precision: str | None = None
    cpu: bool = False

    def __post_init__(self) -> None:
        """Reject numbers with which nothing can be trained."""
        for name in ("epochs", "batch", "rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"--{name}: got {getattr(self, name)}, expected a number above 0")


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: 1 for the first.
        loss: mean over its steps, with all added terms.
        accuracy: on the held-out images, in [0, 1].
        seconds: wall time, with the validation.
    """

    number: int
    loss: float
    accuracy: float
    seconds: float


class Prepared(nn.Module):
    """What is given to Accelerate, which marks and changes what it prepares: a new one in each training.

    The network inside stays as it is, and can be cut and trained again.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def train(
    model: nn.Module,
    data: Data,
    settings: Settings | None = None,
    sparsity: Regularizer | None = None,
    teacher: Teacher | None = None,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Epoch, ...]:
    """Train a network in place, on one process or, under `accelerate launch`, on several.

    Args:
        model: takes images (n, c, h, w) in [0, 1] and returns logits (n, classes).
        data: images to train on, and held-out ones, on which it is measured after each epoch.
        settings: how to train.
        sparsity: a regulariser of the weights.
        teacher: an additional loss.
        progress: called with each epoch.
        checkpoint: written after each epoch; a training that finds it goes on from there. It is not removed.

    Raises:
        TrainingError: the loss or a weight is no longer a number; the model then is as it was after the last good epoch.
        DataError: there are fewer images than a batch.
        OptionError: the checkpoint is that of other settings.
    """
    run = _Run(model, data, settings or Settings(), sparsity, teacher)
    with _fast_layout(model, run.accelerator.device):
        return run.epochs(progress or (lambda epoch: None), checkpoint)


@contextlib.contextmanager
def _fast_layout(model: nn.Module, device: torch.device) -> Iterator[None]:
    """With weights laid out channels-last on a GPU.

    On CPUs it gains little, and oneDNN corrupts memory in the gradient of a strided 1x1 convolution with fewer than 8 or 16
    channels, which cuts leave (its issue 6035).
    """
    if device.type != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1] on images (n, c, h, w), bytes or numbers in [0, 1], and their classes (n,)."""
    return _hits(model, Split(images, labels)) / len(labels)


def inputs(images: Tensor) -> Tensor:
    """Bytes as numbers in [0, 1]; numbers as they are."""
    return images if images.is_floating_point() else images.float() / 255


@torch.no_grad()
def _hits(model: nn.Module, split: Split) -> int:
    """How many images get their class."""
    device, found = device_of(model), 0
    with evaluating(model):
        for start in range(0, len(split), JUDGED):
            part = split.at(slice(start, start + JUDGED))
            found += int((model(inputs(part.images.to(device))).argmax(1) == part.labels.to(device)).sum())
    return found


def accelerator_of(settings: Settings) -> Accelerator:
    """Where and how precisely to compute. The first one in a process also lets processes find each other.

    Raises:
        OptionError: this device cannot compute so, or the batch cannot be divided among the processes.
    """
    try:
        # a batch is divided among the processes, so that their number changes neither the batch nor the schedule
        divided = DataLoaderConfiguration(split_batches=True)
        found = Accelerator(cpu=settings.cpu, mixed_precision=settings.precision, dataloader_config=divided)
    except ValueError as e:
        raise OptionError(f"--precision: got {settings.precision}, which cannot be used here: {first_line(e)}") from e
    if settings.batch % found.num_processes:
        raise OptionError(
            f"--batch: got {settings.batch}, expected a multiple of the number of processes, {found.num_processes}"
        )
    return found


def machine() -> str:
    """Where this runs, and the versions that matter."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"


class _DivergedError(Exception):
    """The loss, or a weight, is no longer a finite number."""


class _Run:
    """One training: the network, and what Accelerate made of it."""

    def __init__(
        self, network: nn.Module, data: Data, settings: Settings, sparsity: Regularizer | None, teacher: Teacher | None
    ) -> None:
        self.network, self.data, self.settings = network, data, settings
        self.sparsity, self.teacher = sparsity, teacher
        self._best: State | None = None
        self.accelerator = accelerator_of(settings)
        self.order, self.draws = torch.Generator(), torch.Generator()
        optimizer, loader = _optimizer(network, settings, sparsity), batches(data.train, settings.batch, self.order)
        schedule = OneCycleLR(optimizer, settings.rate, settings.epochs * len(loader))
        prepared = self.accelerator.prepare(Prepared(network), optimizer, loader, schedule)
        self.module, self.optimizer, self.loader, self.schedule = prepared

    def epochs(self, progress: Callable[[Epoch], None], checkpoint: Checkpoint | None) -> tuple[Epoch, ...]:
        """Train; after an epoch that went wrong, the network gets the weights that it had before."""
        found = [] if checkpoint is None else self._continued(checkpoint)
        good = _copy(self.network)
        for number in range(len(found) + 1, self.settings.epochs + 1):
            try:
                found.append(self._epoch(number))
            except _DivergedError as e:
                self.network.load_state_dict(good)
                raise TrainingError(f"epoch {number}: {e}; the network is as it was before this epoch. {ADVICE}") from None
            good = _copy(self.network)
            if self._best is None or found[-1].accuracy > max(epoch.accuracy for epoch in found[:-1]):
                self._best = good
            if checkpoint is not None:
                decided(partial(self._keep, checkpoint, found))
            progress(found[-1])
        if self.settings.keep_best and self._best is not None:
            self.network.load_state_dict(self._best)
        return tuple(found)

    def _parts(self) -> dict[str, Any]:
        """What has a state, by name."""
        found = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        others = {"sparsity": self.sparsity, "scaler": self.accelerator.scaler}
        return {**found, **{name: part for name, part in others.items() if part is not None}}

    def _keep(self, checkpoint: Checkpoint, epochs: Sequence[Epoch]) -> None:
        states = {name: part.state_dict() for name, part in self._parts().items()}
        checkpoint.write({"epochs": [asdict(e) for e in epochs], "best": self._best, "states": states})

    def _continued(self, checkpoint: Checkpoint) -> list[Epoch]:
        """The epochs that were done before the training was stopped, with everything as it was after them."""
        stored = decided(checkpoint.read)
        if stored is None:
            return []
        for name, part in self._parts().items():
            part.load_state_dict(stored["states"][name])
        self._best = stored["best"]
        return [Epoch(**epoch) for epoch in stored["epochs"]]

    def _epoch(self, number: int) -> Epoch:
        start = time.perf_counter()
        # seeded anew, so that a training that goes on sees the images that it would have seen
        self.order.manual_seed(self.settings.seed + number * EPOCHS_APART)
        self.draws.manual_seed(self.settings.seed + number * EPOCHS_APART + self.accelerator.process_index)
        self.module.train()
        losses = [self._step(images, labels) for images, labels in self.loader]
        self._agree()
        wrong = next((name for name, p in self.network.named_parameters() if not p.isfinite().all()), None)
        if wrong is not None:
            raise _DivergedError(f"'{wrong}' is NaN or infinite")
        return Epoch(number, sum(losses) / len(losses), self._accuracy(), time.perf_counter() - start)

    def _step(self, images: Tensor, labels: Tensor) -> float:
        """One step of the optimizer; returns the loss, averaged over the processes, so that all of them stop together."""
        x = inputs(augmented(images, self.data.shift, self.draws))
        logits = self.module(x)
        loss = F.cross_entropy(logits, labels)
        if self.sparsity is not None:
            loss = loss + self.sparsity(self.network)
        if self.teacher is not None:
            loss = loss + self.teacher(x, logits)
        value = float(self.accelerator.reduce(loss.detach(), "mean"))
        if not math.isfinite(value):
            raise _DivergedError(f"the loss is {value}")
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.schedule.step()
        if self.sparsity is not None:
            self.sparsity.step(self.optimizer)
        return value

    @torch.no_grad()
    def _agree(self) -> None:
        """Average the statistics of BatchNorm, which each process has from its own images; weights are equal already."""
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.accelerator.reduce(buffer.clone(), "mean"))

    def _accuracy(self) -> float:
        """On the held-out images, divided among the processes."""
        held = self.data.held
        own = held.at(slice(self.accelerator.process_index, None, self.accelerator.num_processes))
        hits = torch.tensor(_hits(self.network, own), device=self.accelerator.device)
        return int(self.accelerator.reduce(hits, "sum")) / len(held)


def _optimizer(network: nn.Module, settings: Settings, sparsity: Regularizer | None) -> SGD:
    """SGD, without weight decay on what `sparsity` acts on."""
    decay, trained = settings.weight_decay, [p for p in network.parameters() if p.requires_grad]
    groups = trained if sparsity is None else parameter_groups(network, decay, sparsity)
    return SGD(groups, settings.rate, settings.momentum, weight_decay=decay, nesterov=settings.momentum > 0)


def _copy(network: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
