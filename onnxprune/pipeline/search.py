# SPDX-License-Identifier: Apache-2.0
"""Search for the most faithful model within targets: many cuts are made and judged, the best are recovered and measured.

Samples are used for one thing each. Of those of the user, a part is held out for the report. Of the others, one half is for
scores and statistics, and candidates are judged on the other half; for the best candidates, all of them serve as in `prune`.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.latency import Features, Latency, Timed, fitted
from onnxprune.cost.machine import this_machine
from onnxprune.cost.model import CostModel
from onnxprune.cost.profile import Profile
from onnxprune.cost.size import cost
from onnxprune.data.batching import batched
from onnxprune.data.samples import Data
from onnxprune.data.user_code import name_of
from onnxprune.effort import Clock, Effort
from onnxprune.errors import DataError, OptionError, PruneError, counted
from onnxprune.evaluation.answers import check_answered
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded, marked
from onnxprune.ir.packing import named_after
from onnxprune.ir.placing import check_output
from onnxprune.options import Options, RecoveryOptions
from onnxprune.pipeline.candidates import (
    Ground,
    Scores,
    Settings,
    aims,
    choices_of,
    kept_by,
    presets,
)
from onnxprune.pipeline.components import Components
from onnxprune.pipeline.decide import check_selection
from onnxprune.pipeline.depth import Gone, in_turn
from onnxprune.pipeline.goal import Budget, Goal, goal_of
from onnxprune.pipeline.latency import Stopwatch, stopwatch, with_latency
from onnxprune.pipeline.prune import check_depth, check_not_unified, prune_loaded, read_data
from onnxprune.pipeline.refusal import of_options, refuses
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.samples import sizes_with
from onnxprune.pipeline.study import ERROR, Choice, Choices, Study, Tried, check_storage
from onnxprune.report.search import Candidate, Point, SearchReport, front_of, spaced
from onnxprune.report.values import Report
from onnxprune.selection.bounds import LayerRatios
from onnxprune.types import Progress, silent

TRIALS, BEST, MOST_WRITTEN = 100, 3, 100
HELD_OUT, MAX_HELD_OUT = 0.2, 1000
JUDGING, MAX_JUDGED, MAX_SCORED, MAX_STATISTICS = 0.5, 400, 400, 64
"""The share of samples that is held out for the report; of the others, the share that trials are judged on; and at most how
many samples serve for each, for scores, and for the statistics of a cut."""
SEARCHING = 0.6
"""The part of the time that is for trials; the rest is for the best."""
CANDIDATE = "candidate"

_Begun = tuple[Choices, Tried, Mapping[str, Any]]
"""The parameters, the first trial, and what all processes share."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a search is done, beside the options that all its cuts share.

    Attributes:
        storage: where trials are kept: a file, or a URL of a database that Optuna can use; None: in memory.
        study: the name of this search there; None: that of the model's file.
        trials: number of trials, those of all processes together; None: 100, or with `time` any.
        time: seconds for trials, recovery and judging; None: any.
        best: how many of the best are recovered and measured, beside the default.
        scope: as in `SelectionOptions`; None: all are tried.
    """

    storage: str | None = None
    study: str | None = None
    trials: int | None = None
    time: float | None = None
    best: int = BEST
    scope: str | None = None

    def __post_init__(self) -> None:
        """Reject values out of range."""
        for name in ("trials", "best"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise OptionError(f"--{name}: got {value}, expected at least 1")
        if self.best > MOST_WRITTEN:
            raise OptionError(f"--best: got {self.best}, expected at most {MOST_WRITTEN:,}: each is recovered and measured")
        if self.study == "":
            raise OptionError("--study: got '', expected the name of the search in its storage")
        if self.storage == "":
            raise OptionError("--storage: got '', expected a file, or a URL such as postgresql://user@host/database")

    @classmethod
    def of(cls, time_budget: str | float | None = None, **given: Any) -> SearchOptions:
        """With a time as an option states it, as "10m" or in seconds."""
        seconds = None if time_budget is None else RecoveryOptions(time_budget=time_budget).seconds()
        return cls(time=seconds, **given)

    @property
    def most(self) -> float:
        """Number of trials at which the search ends."""
        return self.trials or (TRIALS if self.time is None else math.inf)


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        report: the trials, the front and its points.
        results: the models of the points, in the same order.
    """

    report: SearchReport
    results: tuple[Result, ...] = field(repr=False)

    @property
    def best(self) -> Result:
        """The most faithful model within the targets; if there is none, the nearest."""
        return self.results[0]

    def in_memory(self) -> SearchResult:
        """The same result with all weights in memory."""
        return replace(self, results=tuple(r.in_memory() for r in self.results))

    def save(self, output: str | Path, force: bool = True) -> SearchReport:
        """Write the best model, the other points of the front (`NAME.2.onnx`, ...), and their plans.

        Returns:
            The report, with the names of the files.

        Raises:
            OptionError: a file of the original would be replaced, or a file exists and `force` is False.
            OutputError: they cannot be written.
        """
        chosen = [k for k, p in enumerate(self.report.points) if k == 0 or p.front]
        places = [numbered(Path(output), n + 1) for n in range(len(chosen))]
        for k, place in zip(chosen, places, strict=True):
            for path in (place, plan_beside(place)):
                check_output(path, force, *self.results[k].inputs)
        points = list(self.report.points)
        for k, place in zip(chosen, places, strict=True):
            self.results[k].save(place, plan_beside(place), force)
            points[k] = replace(points[k], output=str(place), plan=str(plan_beside(place)))
        return replace(self.report, points=tuple(points))


def numbered(output: Path, number: int) -> Path:
    """The file of the n-th model.

    >>> [numbered(Path("m.searched.onnx"), n).name for n in (1, 2)]
    ['m.searched.onnx', 'm.searched.2.onnx']
    """
    if number == 1:
        return output
    packed = output.suffix.lower() == ".zst"
    inner = output.with_suffix("") if packed else output
    return inner.with_name(f"{inner.stem}.{number}{inner.suffix}{output.suffix if packed else ''}")


def plan_beside(output: Path) -> Path:
    """The plan of a model."""
    return named_after(output, ".plan.json")


def check_search(options: Options) -> None:
    """Reject options that a search cannot do anything with, before any work.

    Raises:
        OptionError: there are no inputs, or no targets, or `depth` does not go with what is given.
    """
    if not options.data.given:
        raise OptionError("search: requires --data, typical inputs to judge on; labels are not needed")
    if not options.selection.targets():
        raise OptionError("search: got no target, expected what may remain, such as --latency 50%, --macs 50% or --size 2MB")
    if options.selection.depth:
        check_depth(options)


@refuses(of_options)
def search_loaded(
    loaded: Loaded, options: Options, how: SearchOptions, progress: Progress = silent, components: Components | None = None
) -> SearchResult:
    """Search for the most faithful cut within the targets of `options`, recover the best, and measure them.

    It can be stopped at any time, and goes on if it is called again with the same storage; several processes share the trials.

    Args:
        loaded: the model.
        options: the user's options, as returned by `resolved`; they state targets and data.
        how: how the search is done.
        progress: called with the name of a stage and the fraction done, 0 to 1.
        components: the steps that can have more than one implementation.

    Raises:
        OptionError: an option is wrong, the storage is not there, or the study was made for something else.
        PruneError: the model or the data is wrong.
    """
    check_search(options)
    check_storage(how.storage)
    loaded = marked(loaded)
    clock, metric = Clock(math.inf if how.time is None else how.time), options.data.metric
    assert not isinstance(metric, str)
    asked = _asked(loaded, options, how)
    name = how.study or (Path(loaded.name).name.removesuffix(".zst").removesuffix(".onnx") if loaded.sha256 else "search")
    opened = partial(Study, how.storage, name, options.data.seed)
    study = opened() if how.storage and ("://" in how.storage or Path(how.storage).exists()) else None
    if study:
        study.check(asked)
    progress("analyse", 0)
    check_not_unified(loaded)
    analysis = analyse(read_graph(loaded.model, options.data.input_shape), options.selection.policy())
    check_selection(analysis, options.selection, loaded.name)
    data = read_data(loaded, options, Effort(), progress)
    assert data is not None
    check_answered(loaded.model, data)
    options = replace(options, data=replace(options.data, input_shape=sizes_with(data, options.data.input_shape)))
    analysis = analyse(read_graph(loaded.model, options.data.input_shape), options.selection.policy())
    asked = {**asked, "data": data.digest}
    parts = _split(data, options.data.seed)
    judge = Evaluator(loaded.model, parts.judged, metric, options.data.seed)
    if not judge.varies:
        raise DataError("--data: the original gives the same outputs for all of these samples; give samples that differ")
    scores = Scores(options.data.seed, batched(parts.scored, loaded.model))
    search = _Search(loaded, analysis, options, how, parts, judge, scores, clock, components or Components(), progress)
    begun = None if study else search.begun()  # an error in it leaves no file behind
    study = study or opened()
    study.check(asked)
    return search.result(study, asked, begun)


@dataclass(frozen=True)
class _Parts:
    """The samples: for scores and statistics, for judging trials, both of these, and for the report."""

    scored: Data
    judged: Data
    own: Data
    held_out: Data


def _split(data: Data, seed: int) -> _Parts:
    own, held_out = data.split(min(max(1, round(HELD_OUT * len(data))), MAX_HELD_OUT), seed)
    scored, judged = own.split(min(max(1, round(JUDGING * len(own))), MAX_JUDGED), seed)
    if not (len(scored) and len(judged) and len(held_out)):
        got = counted(len(data), "sample")
        raise DataError(f"--data: got {got}, expected at least three batches: to score, to judge on, and for the report")
    return _Parts(scored.take(MAX_SCORED, seed), judged, own, held_out)


def _asked(loaded: Loaded, options: Options, how: SearchOptions) -> dict[str, str]:
    """What decides the trials, but the samples."""
    selection, metric = options.selection, options.data.metric
    digest = loaded.sha256 or hashlib.sha256(loaded.model.SerializeToString(deterministic=True)).hexdigest()
    targets = " ".join(f"--{name} {getattr(selection, name)}" for name in selection.targets())
    choice = [*selection.include, "|", *selection.exclude, "|", *selection.carrier]
    return {
        "model": digest,
        "target": targets,
        "metric": name_of(metric if callable(metric) else None),
        "criterion": selection.criterion or "",
        "scope": how.scope or "",
        "normalise": selection.normalise or "",
        "align": str(selection.align),
        "profile": selection.profile.digest if isinstance(selection.profile, Profile) else "",
        "choice of layer ratios": _text(selection.layer_ratios) if isinstance(selection.layer_ratios, LayerRatios) else "",
        "depth": str(selection.depth or ""),
        "choice of weights": " ".join([*choice, *(["renormalising"] if selection.allow_renormalising else [])]),
        "seed": str(options.data.seed),
        "recover": "none" if options.recovery.recover == "none" else "any",
        **({"threads": str(options.checks.threads)} if selection.latency is not None else {}),
    }


def _text(ratios: LayerRatios) -> str:
    """What a file of layer ratios states, on one line."""
    return ", ".join(f"{pattern} {bounds.least!r} to {bounds.most!r}" for pattern, bounds in ratios.patterns.items())


def _order(setup: Mapping[str, Any]) -> Gone:
    """The residual branches that may go, in the order in which they go; older studies state none."""
    return tuple((skip, total) for skip, total in setup.get("branches", ()))


class _Predicted:
    """The latency model that all processes of a search share, fitted once."""

    def __init__(self, known: Mapping[str, Any], lanes: int) -> None:
        self._costs, self._lanes = fitted(_timed(known)), lanes
        self._models: dict[int, tuple[Coupled, CostModel]] = {}

    def model(self, coupled: Coupled) -> CostModel:
        """That of the cuts of one graph."""
        if id(coupled) not in self._models:  # the graph is kept, too, so that no other one gets its id
            self._models[id(coupled)] = coupled, Latency(Features.of_graph(coupled, self._lanes), self._costs)
        return self._models[id(coupled)][1]


def machine(threads: int) -> dict[str, Any]:
    """This machine, as far as latencies depend on it, and its name."""
    found = asdict(this_machine(threads))
    return {"name": platform.node(), **found, "features": list(found["features"])}


def _done(study: Study) -> int:
    return len(study.tried()) + study.failed()


def _timed(known: Mapping[str, Any]) -> list[Timed]:
    """Cuts that were timed, as they are kept."""
    return [Timed(np.array(features), ms, weight) for features, ms, weight in known["seen"]]


def _stored(candidate: Candidate) -> dict[str, Any]:
    """A candidate as it is kept with its trial."""
    return {name: value for name, value in asdict(candidate).items() if name != "trial"}


def _candidate(trial: Tried) -> Candidate:
    return Candidate(trial.number, **trial.attrs[CANDIDATE])


def _finalists(tried: Sequence[Candidate], front: Sequence[Candidate], best: int) -> list[Candidate]:
    """The default, the most faithful candidate, and others of the front, evenly from large to small."""
    front = spaced(front, lambda c: c.kept)
    places = np.unique(np.linspace(0, len(front) - 1, best).round().astype(int))
    chosen = [tried[0], *(front[k] for k in places)]
    return list({c.trial: c for c in chosen}.values())


def _ranked(found: Sequence[tuple[Point, Result]]) -> tuple[list[Point], list[Result]]:
    """The best first, then the front by what remains, then the others; if all miss a target, the nearest is the best."""
    within = [p for p, _ in found if not p.missed]
    front = spaced(front_of(within, lambda p: (p.loss, p.kept)), lambda p: p.kept) or [
        min((p for p, _ in found), key=lambda p: p.kept)
    ]
    trials = [p.candidate.trial for p in front]
    place = {trial: k for k, trial in enumerate(trials)}
    ordered = sorted(found, key=lambda x: (place.get(x[0].candidate.trial, len(place)), x[0].loss))
    points = [replace(p, front=p.candidate.trial in place) for p, _ in ordered]
    return points, [result for _, result in ordered]


def _costs(report: Report) -> dict[str, float]:
    """What a result costs."""
    found = {"macs": report.macs, "params": report.params, "size": report.bytes, "memory": report.memory}
    timing = report.benchmark
    timed = {"latency": timing.latencies[0].median_ms / timing.speedup[1]} if timing else {}
    return {name: change.after for name, change in found.items()} | timed


def _costs_before(report: Report) -> dict[str, float]:
    """What the original costs."""
    found = {"macs": report.macs, "params": report.params, "size": report.bytes, "memory": report.memory}
    timed = {"latency": report.benchmark.latencies[0].median_ms} if report.benchmark else {}
    return {name: change.before for name, change in found.items()} | timed


@dataclass(frozen=True)
class _Search:
    """One process of a search: the arguments of `search_loaded`, and what follows from them."""

    loaded: Loaded
    analysis: Analysis
    options: Options
    how: SearchOptions
    parts: _Parts
    judge: Evaluator
    scores: Scores
    clock: Clock
    components: Components
    progress: Progress

    def result(self, study: Study, asked: Mapping[str, str], begun: _Begun | None) -> SearchResult:
        """Make what is missing of the trials, and the points of the front; `begun` is used if there is no first trial yet."""
        resumed = _done(study)
        setup = study.begin(asked, lambda: begun or self.begun(), presets)
        ground = self._ground(setup)
        self._run(study, ground, self._choices(setup))
        tried = [_candidate(t) for t in study.tried()]
        front = front_of([c for c in tried if c.within], aims) or [min(tried, key=aims)]
        finalists = _finalists(tried, front, self.how.best)
        watch = self._watch(setup) if setup["machine"] == machine(self.options.checks.threads) else None
        found = [self._point(c, ground, watch, len(finalists) - k, k / len(finalists)) for k, c in enumerate(finalists)]
        self.progress("the best", 1)
        points, results = _ranked(found)
        report = self._report(study, asked, setup, tried, front, resumed, points, results)
        return SearchResult(report, tuple(results))

    def _settings(self) -> Settings:
        """The default."""
        return Settings(self.options.criterion, self.how.scope or "global", self.options.selection.normalise)

    def begun(self) -> _Begun:
        """The parameters, the first trial, which is the default, and what all processes share."""
        selection, threads = self.options.selection, self.options.checks.threads
        if selection.latency is not None and selection.profile is None:
            selection = replace(selection, profile=self.components.profile(threads, self.progress))
        setup: dict[str, Any] = {
            "align": selection.alignment().multiple,
            "lanes": selection.fast_widths().multiple,
            "machine": machine(threads),
            "widths": {},
            "branches": [],
            "latency": None,
        }
        if selection.depth:
            setup["branches"] = in_turn(self.analysis, self.loaded.model, self.judge, self.progress)
        if (amount := self.options.selection.targets().get("latency")) is not None:
            watch = self._watch(setup)
            with_latency(Goal(None), amount, str(self.options.selection.latency), watch)
            watch.model(self.analysis.coupled)
            seen = [[t.features.tolist(), t.milliseconds, t.weight] for t in watch.seen]
            setup["latency"] = {"seen": seen, "whole": watch.whole}
        ground, settings = self._ground(setup), self._settings()
        decision = ground.decision(settings)
        candidate = ground.candidate(settings, decision)
        setup["widths"] = kept_by(decision, selection)
        choices = self._choices(setup)
        return choices, Tried(0, settings.params(choices), aims(candidate), {CANDIDATE: _stored(candidate)}), setup

    def _choices(self, setup: Mapping[str, Any]) -> Choices:
        """The parameters of the trials."""
        return choices_of(self.options, self.how.scope, setup["widths"], _order(setup))

    def _watch(self, setup: Mapping[str, Any]) -> Stopwatch:
        """Times cuts of the model; what was timed before is known."""
        options, integers = self.options, self.parts.own.integers
        shapes = cost(self.loaded.model, options.data.input_shape, self.loaded.size).inputs
        threads, seed, run = options.checks.threads, options.data.seed, self.components.run
        watch = stopwatch(self.loaded.model, shapes, integers, threads, run, seed, self.progress, setup["lanes"])
        known = setup["latency"]
        return replace(watch, seen=_timed(known), whole=known["whole"]) if known else watch

    def _ground(self, setup: Mapping[str, Any]) -> Ground:
        selection = self.options.selection
        if selection.profile is None:  # which says what fits for all processes
            selection = replace(selection, align=setup["align"])
        goal = goal_of(selection)
        if (latency := selection.targets().get("latency")) is not None:
            budget = Budget(_Predicted(setup["latency"], setup["lanes"]).model, latency, str(selection.latency), "latency")
            goal = replace(goal, budgets=(*goal.budgets, budget))
        statistics = self.parts.scored.take(MAX_STATISTICS, self.options.data.seed)
        return Ground(
            self.loaded,
            self.analysis,
            replace(self.options, selection=selection),
            goal,
            self.components.strategy,
            self.judge,
            [] if self.options.recovery.recover == "none" else batched(statistics, self.loaded.model),
            self.scores,
            setup["widths"],
            _order(setup),
        )

    def _run(self, study: Study, ground: Ground, choices: Choices) -> None:
        """Make trials until there are enough, or there is no time for more."""

        def objective(params: Mapping[str, Choice]) -> tuple[tuple[float, ...], Mapping[str, Any]]:
            settings = Settings.of(params)
            try:
                candidate = ground.candidate(settings, ground.decision(settings))
            except PruneError as e:
                return (), {ERROR: e.message}
            return aims(candidate), {CANDIDATE: _stored(candidate)}

        seconds = SEARCHING * self.clock.budget
        while (done := _done(study)) < self.how.most and self.clock.spent < seconds:
            self.progress("search", max(done / self.how.most, self.clock.spent / seconds))
            study.run(choices, objective)
        self.progress("search", 1)

    def _point(
        self, candidate: Candidate, ground: Ground, watch: Stopwatch | None, left: int, done: float
    ) -> tuple[Point, Result]:
        """A candidate, recovered, judged on held-out samples, and measured."""
        self.progress("the best", done)
        settings = Settings(**{f.name: getattr(candidate, f.name) for f in fields(Settings)})
        selection = settings.selection(ground.options.selection, ground.usual, f"trial {candidate.trial} of the search")
        budget = self.options.recovery.seconds() if self.how.time is None else max(self.clock.left / left, 1.0)
        data = replace(self.options.data, data=self.parts.own, preprocess=None, samples=None, labels=None)
        recovery = replace(self.options.recovery, time_budget=budget)
        options = replace(self.options, selection=selection, data=data, recovery=recovery)
        components = replace(self.components, watch=watch, sets=lambda *_: [ground.gone(settings)])
        result = prune_loaded(self.loaded, options, self.progress, components)
        if result.report.recovery:
            row = replace(result.report.recovery, source=self.options.data.source)
            result = replace(result, report=replace(result.report, recovery=row))
        metric = self.options.data.metric
        assert not isinstance(metric, str)
        judged = Evaluator(self.loaded.model, self.parts.held_out, metric, data.seed).judge(result.model)
        chosen = result.report.recovery.chosen if result.report.recovery else None
        point = Point(
            candidate,
            result.report.recovery.method if result.report.recovery else "none",
            chosen.loss if chosen else judged.loss,
            judged.lost,
            judged.agreement,
            judged.accuracy,
            _costs(result.report),
            result.report.targets[0].kept,
            any(not t.met and t.reached > t.most / candidate.share for t in result.report.targets),
        )
        return point, result

    def _report(
        self,
        study: Study,
        asked: Mapping[str, str],
        setup: Mapping[str, Any],
        tried: Sequence[Candidate],
        front: Sequence[Candidate],
        resumed: int,
        points: Sequence[Point],
        results: Sequence[Result],
    ) -> SearchReport:
        selection, metric = self.options.selection, self.options.data.metric
        assert not isinstance(metric, str)
        return SearchReport(
            asked=asked,
            model=self.loaded.name,
            data=self.options.data.source,
            targets={name: str(getattr(selection, name)) for name in selection.targets()},
            study=study.name,
            storage=study.place,
            machine=machine(self.options.checks.threads),
            made_on=setup["machine"],
            trials=len(tried),
            failed=study.failed(),
            resumed=resumed,
            judged=len(self.parts.judged),
            held_out=len(self.parts.held_out),
            measure=name_of(metric),
            accuracy=Evaluator(self.loaded.model, self.parts.held_out, metric, self.options.data.seed).before.accuracy,
            original=_costs_before(results[0].report),
            front=tuple(front),
            tried=tuple((c.trial, c.kept, c.lost) for c in tried),
            points=tuple(points),
            branches=tuple(total for _, total in _order(setup)),
        )
