# SPDX-License-Identifier: Apache-2.0
"""The loop of CCPrune (Chen et al., 2021): remove a few channels, retrain, score what is left, and again.

The same loop as `--rounds`, with the user's training as its recovery.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import nn

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.cost import benchmark
from onnxprune.cost.size import cost
from onnxprune.errors import OptionError, TrainingError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.ir.saving import save
from onnxprune.options import HOME, Options, check_names
from onnxprune.pipeline.components import DEFAULT
from onnxprune.pipeline.decide import eligible
from onnxprune.pipeline.goal import EXPONENTIAL, SCHEDULES, Goal, goal_of
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.result import Result
from onnxprune.rewrite.plan import Plan
from onnxprune.training.compact import load_compact, save_compact
from onnxprune.training.export import TORCHSCRIPT, Example, check_export, exported
from onnxprune.training.modules import unwrapped
from onnxprune.training.plans import apply_plan
from onnxprune.training.processes import decided
from onnxprune.training.rounds import Journal, Round, best_of, plot, table
from onnxprune.training.weights import load_weights
from onnxprune.types import Progress, Shapes, silent


@dataclass(frozen=True)
class Retraining:
    """What a retraining is told beside the module to train.

    Attributes:
        number: of the round, from 1.
        original: the unpruned module, for `Distillation`; it must not be changed.
        plan: what leads from the original to the module.
    """

    number: int
    original: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)


Train = Callable[[nn.Module, Retraining], Any]
Evaluate = Callable[[nn.Module], float]
NOT_HERE = ("rounds", "work", "verify", "bench", "input_shape", "metric", "labels", "latency", "max_loss")
"""Options of `prune` that have no meaning in this loop, or that it sets itself."""


@dataclass(frozen=True)
class Iterated:
    """The result of a loop.

    Attributes:
        model: the module of the best round.
        plan: what leads from the original to it.
        best: that round.
        rounds: all rounds; the first is the original.
        stopped: why it stopped early; empty if it did not.
        folder: where its files are: `round-K.pt` (for `load_compact`), `round-K.onnx` and `round-K.plan.json`.
    """

    model: nn.Module = field(repr=False)
    plan: Plan = field(repr=False)
    best: Round
    rounds: tuple[Round, ...]
    stopped: str
    folder: Path

    def table(self) -> str:
        """The rounds as a Markdown table."""
        return table(self.rounds)

    def plot(self, path: str | Path) -> None:
        """Draw the metric over MACs and over measured latency.

        Raises:
            TrainingError: matplotlib is not installed.
            OutputError: the file cannot be written.
        """
        plot(self.rounds, Path(path))


def iterate(
    model: nn.Module,
    example_inputs: Example,
    *,
    train: Train,
    evaluate: Evaluate,
    folder: str | Path,
    rounds: int = 5,
    ratio: float | None = None,
    macs: str | float | None = None,
    schedule: str = EXPONENTIAL,
    floor: float | None = None,
    recover: str = "none",
    exporter: str = TORCHSCRIPT,
    bench: bool = True,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Iterated:
    """Prune a module in rounds, each followed by the user's own training.

    Each round exports the module, scores its channels, cuts, retrains, evaluates and measures. Every round is a checkpoint:
    called again with the same arguments, a loop that was killed continues after its last complete round.

    Args:
        model: the trained module. It is not changed.
        example_inputs: a tensor, or one for each argument of `forward`.
        train: function(module, `Retraining`), which retrains the module in place with whatever loss and optimizer.
        evaluate: function(module) -> metric, higher is better.
        folder: for checkpoints and ONNX files; it is created. All processes of a parallel training must see it.
        rounds: number of rounds.
        ratio, macs: what all rounds together remove, or leave, as for `prune`.
        schedule: "exponential" removes the same fraction in every round, "linear" the same amount.
        floor: the loop stops after the first round whose metric is below it; the result is the last one above, or the original.
        recover: what precedes the retraining, without labels: "none", "reconstruct" (needs `data`), ...
        exporter: as for `export`.
        bench: whether to measure the latency of every round beside the original.
        settings: whatever else decides how `train` trains (epochs, rates, ...): rounds of other settings are not continued.
        progress: called with the name of a stage and the fraction done, 0 to 1.
        options: other options of `prune` that decide the cut or the recovery (criterion, scope, align, data, seed, ...).

    Raises:
        OptionError: an option is wrong.
        PruneError: the module cannot be exported, cut or evaluated, or `folder` holds rounds of other settings.
    """
    if schedule not in SCHEDULES or type(rounds) is not int or rounds < 1:
        wanted = f"{' or '.join(SCHEDULES)}, and a whole number of at least 1"
        raise OptionError(f"schedule, rounds: got {schedule!r}, {rounds!r}; expected {wanted}")
    if floor is not None and (isinstance(floor, bool | str) or not math.isfinite(floor)):
        raise OptionError(f"floor: got {floor!r}, expected a number, as `evaluate` returns it")
    for name, function in (("train", train), ("evaluate", evaluate)):
        if not callable(function):
            raise OptionError(f"{name}: got {type(function).__name__}, expected a function")
    check_names(options, [name for name in HOME if name not in NOT_HERE])
    asked = Options.of(ratio=ratio, macs=macs, recover=recover, bench=False, **options)
    loop = _Loop(model, example_inputs, train, evaluate, resolved(asked), rounds, schedule, exporter, bench, progress)
    return loop.run(Path(folder), floor, settings or {})


class _Loop:
    """One loop: the original, and the settings that all rounds share."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Example,
        train: Train,
        evaluate: Evaluate,
        options: Options,
        rounds: int,
        schedule: str,
        exporter: str,
        bench: bool,
        progress: Progress,
    ) -> None:
        self._original, self._example = copy.deepcopy(unwrapped(model)), example_inputs
        self._train, self._evaluate, self._progress = train, evaluate, progress
        self._options, self._rounds, self._schedule = options, rounds, schedule
        self._exporter, self._bench = exporter, bench
        self._file = self._exported(self._original)
        self._analysis = self._analysed(self._file)
        self._goal = goal_of(options.selection)
        self._channels = self._prunable(self._analysis)

    def run(self, folder: Path, floor: float | None, settings: Mapping[str, Any]) -> Iterated:
        """All rounds that are not complete yet."""
        journal = Journal(folder, {**self._asked(), **{f"settings.{name}": str(value) for name, value in settings.items()}})
        done = decided(journal.open) or [self._begin(journal)]
        stopped = _below(done[-1], floor)
        while len(done) <= self._rounds and not stopped:
            try:
                done = [*done, self._round(journal, len(done))]
                stopped = _below(done[-1], floor)
            except _DivergedError as e:
                stopped = e.message
        best = best_of(done, floor)
        module, plan = self._restored(journal, best.number)
        decided(lambda: self._complete(journal, done))
        return Iterated(module, plan, best, tuple(done), stopped, folder)

    def _begin(self, journal: Journal) -> Round:
        """The original, evaluated and measured."""
        self._progress("original: evaluate", 0)
        metric = self._metric(self._original)
        if math.isnan(metric):
            raise OptionError("evaluate: gave NaN for the original, expected a number, higher is better")
        return decided(lambda: self._finish(journal, self._original, Plan("", {}), 0, None, metric, 0.0))

    def _round(self, journal: Journal, number: int) -> Round:
        """Cut, retrain, evaluate; then measure, and write the checkpoint."""
        start, stage = time.perf_counter(), f"round {number}/{self._rounds}"
        self._progress(f"{stage}: cut", 0)
        module, before = self._restored(journal, number - 1)
        plan, recovered = decided(lambda: self._decision(module, number))
        apply_plan(module, plan, example_inputs=self._example)
        if recovered is not None:
            load_weights(module, recovered, {t.name for t in self._file.graph.initializer})
            check_export(module, self._example, recovered)
        cut, total = self._metric(module), before.then(plan)
        self._progress(f"{stage}: train", 0.2)
        returned = self._train(module, Retraining(number, self._original, total))
        if returned is not None and returned is not module:
            raise OptionError("train: returned something else than the module that it was given, which it must train in place")
        _check_finite(module, number)
        self._progress(f"{stage}: evaluate", 0.9)
        metric = self._metric(module)
        if math.isnan(metric):
            raise _DivergedError(f"round {number}: `evaluate` gave NaN")
        found = decided(lambda: self._finish(journal, module, total, number, cut, metric, time.perf_counter() - start))
        self._progress(stage, 1)
        return found

    def _metric(self, module: nn.Module) -> float:
        """What the user's function gives; several processes may each give something else, but decide alike."""
        found = self._evaluate(module)
        try:
            value = float(found)
        except (TypeError, ValueError) as e:
            raise OptionError(f"evaluate: returned {type(found).__name__}, expected a number, higher is better") from e
        return decided(lambda: value)

    def _decision(self, module: nn.Module, number: int) -> tuple[Plan, ModelProto | None]:
        """The plan of a round, and the weights of the recovered model."""
        model = self._exported(module)
        left = self._prunable(self._analysed(model))
        share = number / self._rounds
        goal = self._goal.part(share, self._analysis.coupled, self._channels, left, self._schedule)
        result = _cut(model, self._options, goal)
        changed = result.plan.recovered or result.plan.constant  # a module takes made-up biases over with the weights
        return replace(result.plan, constant={}), result.model if changed else None

    def _finish(
        self, journal: Journal, module: nn.Module, plan: Plan, number: int, cut: float | None, metric: float, seconds: float
    ) -> Round:
        """Measure a module and write its files; the record comes last, so that a round is there whole or not at all."""
        model = self._exported(module)
        size = cost(model)
        found = Round(number, size.macs, size.params, size.bytes, cut, metric, seconds=round(seconds, 1))
        if self._bench:
            found = self._timed(found, model, size.inputs)
        save_compact(module, plan, journal.checkpoint(number))
        plan.save(journal.plan(number))
        save(model, journal.model(number))
        journal.add(found)
        return found

    def _complete(self, journal: Journal, done: Sequence[Round]) -> None:
        """Write ONNX files that have been deleted again."""
        for number in (r.number for r in done if not journal.model(r.number).exists()):
            if journal.checkpoint(number).exists():
                save(self._exported(self._restored(journal, number)[0]), journal.model(number))

    def _timed(self, found: Round, model: ModelProto, inputs: Shapes) -> Round:
        """With the latency of the model, timed in turn with the original."""
        feeds = benchmark.random_feeds(self._file, inputs)
        timing = benchmark.benchmark((self._file, model), feeds, self._options.checks.threads)
        latency, speedup = timing.latencies[1], timing.speedup[1] if found.number else 1.0
        return replace(found, latency_ms=latency.median_ms, low_ms=latency.low_ms, high_ms=latency.high_ms, speedup=speedup)

    def _restored(self, journal: Journal, number: int) -> tuple[nn.Module, Plan]:
        """The module after a round, and the plan that leads to it."""
        module = copy.deepcopy(self._original)
        return load_compact(module, journal.checkpoint(number)), Plan.load(journal.plan(number))

    def _exported(self, module: nn.Module) -> ModelProto:
        return exported(module, self._example, exporter=self._exporter)

    def _analysed(self, model: ModelProto) -> Analysis:
        return analyse(read_graph(load(model).model), self._options.selection.policy())

    def _prunable(self, analysis: Analysis) -> int:
        return sum(map(len, eligible(analysis, self._options.selection, type(self._original).__name__)))

    def _asked(self) -> Mapping[str, Any]:
        """What must be the same for a loop to be continued."""
        digest = hashlib.sha256()
        for name, tensor in self._original.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        settings = {k: str(v) for k, v in self._options.asked().items()}
        shared = {"rounds": self._rounds, "schedule": self._schedule, "recover": self._options.recovery.recover}
        return {**settings, **shared, "weights": digest.hexdigest()}


def _cut(model: ModelProto, options: Options, goal: Goal) -> Result:
    """A verified cut of an exported module."""
    components = replace(DEFAULT, goal=lambda _: goal)
    return prune_loaded(load(model), options, components=components).in_memory()


def _below(last: Round, floor: float | None) -> str:
    if floor is None or last.metric >= floor:
        return ""
    what = f"round {last.number}" if last.number else "the original"
    return f"{what} has {last.metric:.4g}, below the floor of {floor:.4g}"


class _DivergedError(TrainingError):
    """The training of a round ended in NaN."""


def _check_finite(module: nn.Module, number: int) -> None:
    wrong = next((n for n, p in module.named_parameters() if not torch.isfinite(p).all()), None)
    if wrong is not None:
        where = f"round {number}: '{wrong}' became NaN or infinite in training"
        raise _DivergedError(f"{where}; use smaller steps, or more rounds, each of which removes less")
