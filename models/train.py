#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train a network with sparsity, prune it in rounds, retrain it after each, export it, and measure it.

    python models/train.py resnet20 --out /tmp/resnet20                        # half the MACs, in three rounds
    python models/train.py vgg19 --width 0.5 --macs 14.5% --out /tmp/vgg19     # the cut of CCPrune's VGG-19
    python models/train.py resnet20 --rounds 0 --out /tmp/whole                # train and export, and nothing else
    python models/train.py resnet20 --sparsity unification --rounds 0 --out /tmp/blocks    # for onnxprune unify
    python models/train.py resnet20 --subset 5000 --epochs 4 --rounds 1 --out /tmp/try    # a try, in a few minutes
    accelerate launch --multi_gpu --num_processes 2 models/train.py resnet50 --precision bf16 --out /tmp/resnet50

With --cpu at its end, the last command trains on two processes without a GPU; `accelerate launch --cpu` starts only one.

Writes into --out (NETWORK-DATA is, for example, resnet20-fashion-mnist):
  NETWORK-DATA.onnx              the trained network: `image` [N, C, H, W] float32 in [0, 1] -> `logits` [N, classes]
  NETWORK-DATA.pruned.onnx       the pruned one, and NETWORK-DATA.pruned.plan.json, which leads from one to the other
  NETWORK-DATA.npz               the first test images and their classes, for `onnxprune ... --data`
  NETWORK-DATA.json              settings, epochs, rounds, and what both networks reach on the whole test set
  NETWORK-DATA.png               accuracy over MACs and over latency
  training.pt, trained.pt, rounds/  checkpoints: a run that was stopped goes on after its last whole epoch or, later, round

Epochs and rounds are judged by 5,000 training images that are held out; the test set is read once, at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

if __name__ == "__main__":  # the parent folder in place of this one, whose `datasets` would hide a library of that name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from models.checkpoints import Checkpoint
from models.datasets import DEBIAN, Data, Split, read
from models.networks import NETWORKS
from models.sparsities import SPARSITIES, settled, sparsity_of
from models.training import Epoch, Settings, accelerator_of, accuracy, inputs, machine, train
from onnxprune.errors import OptionError, OutputError, PruneError
from onnxprune.recovery import METHODS
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.selection.criteria.weights import CRITERIA
from onnxprune.training import Distillation, Iterated, Retraining, export, iterate
from onnxprune.training.processes import decided

UNLABELLED = 1_000
"""Training images for the recovery without labels."""
NAMES: Mapping[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
EXAMPLES = 4
"""Images with which the network is traced and compared."""
Say = Callable[[str], None]


def percentage(text: str) -> float:
    """A share of the multiply-accumulates, as in "50%".

    >>> percentage("14.5%")
    0.145
    """
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a percentage between 0% and 100%, such as 50%")
    return share


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number above 0")
    return value


def at_least(least: int) -> Callable[[str], int]:
    """A whole number of at least `least`."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least}")
        return value

    number.__name__ = "whole number"
    return number


@dataclass(frozen=True)
class Task:
    """What was asked for, the data, how to train first and after each cut, and a few images to trace with."""

    options: argparse.Namespace
    data: Data
    settings: Settings
    retraining: Settings
    example: Tensor
    say: Say

    @property
    def stem(self) -> Path:
        """The output files without their suffixes."""
        folder: Path = self.options.out
        return folder / f"{self.options.network}-{self.data.name}"

    def asked(self) -> dict[str, Any]:
        """What decides how the network is trained."""
        names = ("network", "width", "subset", "sparsity", "strength", "macs")
        return {**{name: getattr(self.options, name) for name in names}, "data": self.data.name, **asdict(self.settings)}

    def held_accuracy(self, network: nn.Module) -> float:
        """On the held-out images."""
        return accuracy(network, self.data.held.images, self.data.held.labels)

    def learn(
        self,
        network: nn.Module,
        settings: Settings,
        sparse: bool,
        teacher: Distillation | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[Epoch]:
        """Train in place, with sparsity or without; in a retraining, each step has the strength that it has in the training."""
        steps = settings.epochs * (len(self.data.train) // settings.batch)
        name = self.options.sparsity if sparse else "none"
        strength = self.options.strength * settings.epochs / self.settings.epochs
        sparsity = sparsity_of(name, network, self.example, steps, self.options.macs, strength)

        def progress(epoch: Epoch) -> None:
            self.say(line(epoch, settings))

        epochs = train(network, self.data, settings, sparsity, teacher, progress, checkpoint)
        settled(network, sparsity, self.example)
        return list(epochs)


def line(epoch: Epoch, settings: Settings) -> str:
    """One line about an epoch."""
    done = f"epoch {epoch.number}/{settings.epochs}"
    return f"{done}  loss {epoch.loss:.3f}  held-out accuracy {epoch.accuracy:.2%}  {epoch.seconds:.0f} s"


def task_of(options: argparse.Namespace) -> Task:
    """Read the data, and find out where to compute.

    Raises:
        OptionError: the options do not go together.
    """
    if options.sparsity == "unification" and (options.rounds or options.keep_best):
        raise OptionError(
            "--sparsity unification: a cut or an earlier epoch breaks its blocks; use --rounds 0 without --keep-best"
        )
    data = read(options.data)
    data = data.first(options.subset) if options.subset else data
    settings = Settings(
        epochs=options.epochs,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        keep_best=options.keep_best,
        precision=options.precision,
        cpu=options.cpu,
    )
    retraining = replace(settings, epochs=options.retrain, rate=options.retrain_rate)
    main = accelerator_of(settings).is_main_process  # made first: from here on, processes know of each other
    say: Say = (lambda text: print(text, flush=True)) if main else (lambda text: None)
    return Task(options, data, settings, retraining, inputs(data.held.images[:EXAMPLES]), say)


def trained(task: Task) -> tuple[nn.Module, list[Epoch]]:
    """The trained network: from its checkpoint, or trained now.

    Raises:
        OptionError: the checkpoint is that of other settings.
    """
    options, data = task.options, task.data
    torch.manual_seed(options.seed)
    network = NETWORKS[options.network](data.classes, data.shape[0], options.width, data.mean, data.std)
    finished, started = (Checkpoint(options.out / name, task.asked()) for name in ("trained.pt", "training.pt"))
    found = decided(finished.read)
    if found is None:
        epochs = task.learn(network, task.settings, sparse=True, checkpoint=started)
        content = {"epochs": [asdict(e) for e in epochs], "state": network.cpu().state_dict()}
        decided(lambda: finished.write(content))
        decided(started.remove)
        return network, epochs
    task.say(f"{finished.path}: trained before")
    network.load_state_dict(found["state"])
    return network, [Epoch(**e) for e in found["epochs"]]


def make_folder(path: Path) -> None:
    """Create the folder for all files."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"--out {path}: cannot be created: {e.strerror}; choose another folder") from e


def pruned(task: Task, network: nn.Module) -> Iterated:
    """Rounds of cutting and retraining, with sparsity as long as another cut follows."""
    options = task.options
    unlabelled = {"x": inputs(task.data.train.images[:UNLABELLED]).numpy()}

    def retrain(module: nn.Module, round_: Retraining) -> None:
        task.say(f"round {round_.number}/{options.rounds}: cut, held-out accuracy {task.held_accuracy(module):.2%}")
        teacher = Distillation(round_.original, module, round_.plan) if options.distill else None
        own = replace(task.retraining, seed=options.seed + round_.number)
        task.learn(module, own, round_.number < options.rounds, teacher)
        if teacher is not None:
            teacher.close()

    return iterate(
        network,
        task.example,
        train=retrain,
        evaluate=task.held_accuracy,
        folder=options.out / "rounds",
        rounds=options.rounds,
        macs=f"{options.macs:.4%}",
        criterion=options.criterion,
        recover=options.recover,
        data=unlabelled if options.recover != "none" or options.criterion in CALIBRATED else None,
        seed=options.seed,
        settings={**asdict(task.retraining), "distill": options.distill, "sparsity": options.sparsity},
    )


def run(options: argparse.Namespace) -> None:
    """Everything, in order."""
    task = task_of(options)
    make_folder(options.out)
    network, epochs = trained(task)
    result = pruned(task, network) if options.rounds else None
    decided(lambda: write(task, network, epochs, result))


def write(task: Task, network: nn.Module, epochs: Sequence[Epoch], result: Iterated | None) -> None:
    """Export, measure on the test set, and record."""
    stem, test = task.stem, task.data.read_test()
    asked = {**vars(task.options), **task.asked()}
    record: dict[str, Any] = {"asked": asked, "epochs": [asdict(e) for e in epochs], "machine": machine()}
    record["test_accuracy"] = accuracy(network, test.images, test.labels)
    export(network, task.example, stem.with_suffix(".onnx"), **NAMES)
    task.say(f"{stem}.onnx: test accuracy {record['test_accuracy']:.2%}")
    if result is not None:
        record |= {"rounds": [asdict(r) for r in result.rounds], "stopped": result.stopped}
        record["pruned_test_accuracy"] = accuracy(result.model, test.images, test.labels)
        export(result.model, task.example, f"{stem}.pruned.onnx", **NAMES)
        result.plan.save(f"{stem}.pruned.plan.json")
        task.say(f"{result.table()}\n{stem}.pruned.onnx: test accuracy {record['pruned_test_accuracy']:.2%}")
    save_samples(stem.with_suffix(".npz"), test, task.options.samples)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    if result is not None:
        result.plot(stem.with_suffix(".png"))


def save_samples(path: Path, test: Split, count: int) -> None:
    """The first test images and their classes, as `--data` takes them."""
    np.savez_compressed(path, image=inputs(test.images[:count]).numpy(), label=test.labels[:count].numpy())


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("network", choices=NETWORKS)
    found.add_argument("--data", type=Path, default=DEBIAN, help=f"folder of Fashion-MNIST or CIFAR-10 (default: {DEBIAN})")
    found.add_argument("--out", type=Path, required=True, help="folder for all files; it is created")
    found.add_argument("--width", type=positive, default=1.0, help="factor on the channels of all layers (default: 1)")
    found.add_argument(
        "--subset", type=at_least(0), default=0, metavar="N", help="only N images of each part, for tries; 0: all (default)"
    )
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--samples", type=at_least(1), default=1000, help="test images that go into the .npz (default: 1000)")

    first = found.add_argument_group("training")
    first.add_argument("--epochs", type=at_least(1), default=15)
    first.add_argument("--batch", type=at_least(1), default=128, help="images a step, over all processes (default: 128)")
    first.add_argument(
        "--rate", type=positive, default=0.2, help="highest learning rate of a one-cycle schedule (default: 0.2)"
    )
    first.add_argument("--sparsity", choices=SPARSITIES, default="l1", help="default: l1, as in CCPrune")
    first.add_argument("--strength", type=positive, default=1.0, help="factor on the usual strength of --sparsity (default: 1)")
    first.add_argument(
        "--keep-best", action="store_true", help="keep the epoch that is best on the held-out images, not the last"
    )

    then = found.add_argument_group("pruning and retraining")
    then.add_argument(
        "--macs", type=percentage, default=0.5, metavar="SHARE", help="share of MACs that remains (default: 50%%)"
    )
    then.add_argument("--rounds", type=at_least(0), default=3, help="rounds in which they are removed; 0: none (default: 3)")
    then.add_argument(
        "--criterion", choices=(*CRITERIA, *CALIBRATED), default="ccprune", help="how channels are ranked (default: ccprune)"
    )
    then.add_argument("--recover", choices=METHODS, default="reconstruct", help="what precedes a retraining, without labels")
    then.add_argument("--retrain", type=at_least(1), default=5, metavar="EPOCHS", help="epochs after each round (default: 5)")
    then.add_argument("--retrain-rate", type=positive, default=0.1, help="highest learning rate there (default: 0.1)")
    then.add_argument("--distill", action="store_true", help="the unpruned network teaches the pruned one in retraining")

    device = found.add_argument_group("device (see also `accelerate config` and `accelerate launch`)")
    device.add_argument("--cpu", action="store_true", help="stay on the CPU")
    device.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        help="mixed precision; on a CPU, bf16 is faster only with AVX512-BF16 or AMX, and several times slower without",
    )
    return found


def main() -> int:
    """Command line."""
    try:
        run(parser().parse_args())
    except PruneError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
