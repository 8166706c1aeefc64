# SPDX-License-Identifier: Apache-2.0
"""One job: train or load a network, cut it, recover, retrain, and measure."""

from __future__ import annotations

import copy
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import onnx
import torch
from figures import processor
from torch import Tensor, nn
from torch_pruning_peer import reestimated

import onnxprune
from models.checkpoints import Checkpoint
from models.datasets import Data, read
from models.networks import NETWORKS
from models.sparsities import settled, sparsity_of
from models.training import Epoch, Settings, accuracy, inputs, machine, train
from onnxprune.cost.benchmark import benchmark, random_feeds
from onnxprune.cost.size import cost
from onnxprune.ir.files import load
from onnxprune.ir.placing import written_whole
from onnxprune.training import apply_plan, exported
from onnxprune.training.weights import load_weights
from reproduction.jobs import PEER, STAGES, Job

RATE, RETRAINING_RATE = 0.2, 0.1
"""Highest learning rates of the one-cycle schedules."""
UNLABELLED, EXAMPLES = 1_000, 4
TRIES = 12
"""Cuts by Torch-Pruning among which the one that is closest in MACs is taken."""


@dataclass(frozen=True)
class Place:
    """What processes need to know to set up the same bench.

    Attributes:
        data: the folder of the data set.
        work: the folder that gets a folder of trained networks for each data set.
        settings: where and how precisely to compute; epochs, rates and seeds are those of the jobs.
        subset: only so many images of each part, for tries; 0 for all.
    """

    data: Path
    work: Path
    settings: Settings
    subset: int = 0


@dataclass(frozen=True)
class Bench:
    """What jobs run with.

    Attributes:
        data: the images.
        work: the folder of trained networks.
        settings: where and how precisely to compute; epochs, rates and seeds are those of the jobs.
    """

    data: Data
    work: Path
    settings: Settings

    @property
    def example(self) -> Tensor:
        """A few images to trace networks with."""
        return inputs(self.data.held.images[:EXAMPLES])

    @property
    def unlabelled(self) -> Tensor:
        """Training images for recoveries without labels."""
        return inputs(self.data.train.images[:UNLABELLED])

    def pruned(self, job: Job) -> Path:
        """The file of the retrained network of a job."""
        return self.work / f"{job.name}.onnx"

    def untrained(self, job: Job) -> nn.Module:
        """The network of a job as its training starts."""
        data = self.data
        torch.manual_seed(job.seed)
        return NETWORKS[job.network](data.classes, data.shape[0], job.width, data.mean, data.std)

    def trained(self, job: Job) -> tuple[nn.Module, list[float]]:
        """The network that a job starts from, trained if that was not done before, and what each epoch reached."""
        data, found = self.data, self.untrained(job)
        finished = Checkpoint(self.work / f"{job.start}.pt", {})
        if (content := finished.read()) is not None:
            found.load_state_dict(content["state"])
            return found, content["held"]
        settings = replace(self.settings, epochs=job.training, rate=RATE, seed=job.seed)
        steps = settings.epochs * (len(data.train) // settings.batch)
        sparsity = sparsity_of(job.sparsity, found, self.example, steps, job.macs, job.strength)
        checkpoint = self.checkpoint(job.start, settings)
        held = reached(train(found, data, settings, sparsity, progress=partial(tell, job.start), checkpoint=checkpoint))
        settled(found, sparsity, self.example)
        finished.write({"state": found.cpu().state_dict(), "held": held})
        checkpoint.remove()
        return found, held

    def retrained(self, network: nn.Module, job: Job) -> tuple[nn.Module, list[float]]:
        """A copy, trained further without sparsity, and what each epoch reached."""
        found = copy.deepcopy(network)
        if not job.retraining:
            return found, []
        settings = replace(self.settings, epochs=job.retraining, rate=RETRAINING_RATE, seed=1000 + job.seed)
        checkpoint = self.checkpoint(job.name, settings)
        held = reached(train(found, self.data, settings, progress=partial(tell, job.name), checkpoint=checkpoint))
        checkpoint.remove()
        return found.cpu(), held

    def checkpoint(self, name: str, settings: Settings) -> Checkpoint:
        """Where a training keeps its epochs; the name tells of everything but the settings."""
        self.work.mkdir(parents=True, exist_ok=True)
        return Checkpoint(self.work / f"{name}.started.pt", asdict(settings))


@lru_cache
def bench_at(place: Place) -> Bench:
    """The bench of this process, with the data set read once.

    Raises:
        DataError: the data set is missing or damaged.
    """
    data = read(place.data)
    if place.subset:
        data = replace(data.first(place.subset), name=f"{data.name}-first{place.subset}")
    return Bench(data, place.work / data.name, place.settings)


def train_at(place: Place, job: Job) -> None:
    """Make sure that the network that a job starts from is trained."""
    bench_at(place).trained(job)


def result_at(place: Place, job: Job) -> dict[str, Any]:
    """Run a job."""
    return result(job, bench_at(place))


def reached(epochs: Sequence[Epoch]) -> list[float]:
    """The accuracy on the held-out images after each epoch."""
    return [round(epoch.accuracy, 4) for epoch in epochs]


def tell(what: str, epoch: Epoch) -> None:
    """One line about an epoch, which is kept by now. A process ends here if its parent, which takes the result, was killed."""
    found = f"loss {epoch.loss:.3f}, held out {epoch.accuracy:.2%}, {epoch.seconds:.0f} s"
    print(f"{what}: epoch {epoch.number}: {found}", flush=True)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # an exception would be stored for the parent, and the process would wait for its next task


def ours(network: nn.Module, job: Job, bench: Bench) -> tuple[nn.Module, nn.Module]:
    """The cut network, and the same with its weights refitted to unlabelled images (least squares)."""
    model = exported(network, bench.example)
    asked: Mapping[str, Any] = {"macs": f"{job.macs:.2%}", "criterion": job.criterion, "align": "none", "bench": False}
    plan = onnxprune.prune(model, recover="none", **asked).plan
    fitted = onnxprune.prune(model, recover="reconstruct", data={"x": bench.unlabelled.numpy()}, **asked)
    cut = apply_plan(copy.deepcopy(network), plan, example_inputs=bench.example)
    recovered = apply_plan(copy.deepcopy(network), fitted.plan)
    load_weights(recovered, fitted.model, {t.name for t in model.graph.initializer})
    return cut, recovered


def theirs(network: nn.Module, job: Job, bench: Bench) -> tuple[nn.Module, nn.Module]:
    """Torch-Pruning's cut, and the same with BatchNorm re-estimated on the same images."""
    low, high, tried = 0.0, 1.0, []
    for _ in range(TRIES):
        ratio = (low + high) / 2
        module, share = uniform(network, bench.example[:1], ratio)
        tried.append((abs(share - job.macs), module))
        low, high = (ratio, high) if share > job.macs else (low, ratio)
    cut: nn.Module = min(tried, key=lambda pair: pair[0])[1]
    return cut.eval(), reestimated(copy.deepcopy(cut), bench.unlabelled.numpy())


def uniform(network: nn.Module, example: Tensor, ratio: float) -> tuple[nn.Module, float]:
    """Torch-Pruning as in its examples: L2 norms, the same share of every group. Also the share of MACs that is left."""
    import torch_pruning as tp

    found = copy.deepcopy(network)
    before, _ = tp.utils.count_ops_and_params(found, example)
    importance, kept = tp.importance.GroupMagnitudeImportance(p=2), [found.get_submodule("fc")]
    tp.pruner.MetaPruner(found, example, importance=importance, pruning_ratio=ratio, ignored_layers=kept).step()
    return found, tp.utils.count_ops_and_params(found, example)[0] / before


def result(job: Job, bench: Bench) -> dict[str, Any]:
    """Run a job, and read the test set at the end. The retrained network is kept in the folder of trained networks, as ONNX."""
    start = time.perf_counter()
    network, training = bench.trained(job)
    cut, recovered = (theirs if job.criterion == PEER else ours)(network, job, bench)
    retrained, retraining = bench.retrained(recovered, job)
    test, stages = bench.data.read_test(), (network, cut, recovered, retrained)
    found = {stage: accuracy(module, test.images, test.labels) for stage, module in zip(STAGES, stages, strict=True)}
    original, pruned = (exported(module, bench.example) for module in (network, retrained))
    before, after = cost(original), cost(pruned)
    with written_whole(bench.pruned(job)) as [draft]:
        onnx.save(pruned, draft)
    sizes = {"macs_left": after.macs / before.macs, "params": after.params, "bytes": after.bytes}
    held = {"held_in_training": training, "held_in_retraining": retraining}
    where = {"machine": machine(), "processor": processor()}
    about = {"data": bench.data.name, **where, "seconds": round(time.perf_counter() - start)}
    return {"name": job.name, **asdict(job), **found, **sizes, **held, **about}


def latency(job: Job, bench: Bench) -> dict[str, Any]:
    """Latency of a retrained network, one image on one thread, and its speed-up over the unpruned one, timed in turn with it.

    Weights do not change the latency, so that the unpruned network is one as it is before it is trained.

    Raises:
        ModelError: the retrained network is not in the folder.
    """
    original, pruned = exported(bench.untrained(job), bench.example), load(bench.pruned(job)).model
    timed = benchmark((original, pruned), random_feeds(original, cost(original).inputs))
    return {"ms": timed.latencies[1].median_ms, "speedup": timed.speedup[1], "timed_on": processor()}
