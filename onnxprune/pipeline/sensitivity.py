# SPDX-License-Identifier: Apache-2.0
"""Sensitivity without labels: each group is cut alone to several widths, and the outputs are compared with the original's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.cost.macs import macs_model
from onnxprune.data.samples import Data
from onnxprune.data.user_code import name_of
from onnxprune.effort import Effort
from onnxprune.errors import CutError, OptionError
from onnxprune.evaluation.answers import check_answered
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded
from onnxprune.options import Options
from onnxprune.pipeline.decide import eligible
from onnxprune.pipeline.loss import loss_of
from onnxprune.pipeline.prune import read_data
from onnxprune.pipeline.refusal import of_options, refuses
from onnxprune.pipeline.samples import sizes_with
from onnxprune.report.sensitivity import Curve, Point, Sensitivity
from onnxprune.rewrite.cut import cut
from onnxprune.selection.criteria import Scorer
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import Space, space_of
from onnxprune.types import Progress, silent

RATIOS = (0.25, 0.5, 0.75)
SAVED_EVERY = 10.0
"""Seconds between two calls of `keep`."""

Keep = Callable[[Sensitivity], None]
"""Called with what is known so far."""


@dataclass(frozen=True)
class _Cut:
    """A group (its place among all) at one ratio."""

    group: int
    ratio: float


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The ratios in ascending order, each once.

    Raises:
        OptionError: there are none, or one is not above 0 and below 1.
    """
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise OptionError(f"--ratios: got {ratio:g}, expected fractions to remove above 0 and below 1, as 0.25,0.5,0.75")
    if not ratios:
        raise OptionError("--ratios: got none, expected fractions to remove, as 0.25,0.5,0.75")
    return tuple(sorted(set(ratios)))


@refuses(of_options)
def sensitivity_loaded(
    loaded: Loaded,
    options: Options,
    ratios: Sequence[float] = RATIOS,
    jobs: int | None = None,
    known: Sensitivity | None = None,
    keep: Keep | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Cut each group alone to several widths, and compare the outputs with those of the original. Nothing is recovered.

    Args:
        loaded: the model.
        options: the user's options, as returned by `resolved`; its ratio is not used.
        ratios: fractions of the channels of a group to remove.
        jobs: number of cuts that are judged at a time, each on one core; None: one per core.
        known: an earlier result, whose cuts are not made again; it must have been made with the same model, data and options.
        keep: called every few seconds, at the end, and if it is interrupted.
        progress: called with the name of a stage and the fraction done, 0 to 1.

    Raises:
        OptionError: the earlier result is of other options, or an option is wrong.
        DataError, ModelError: the data cannot be read, or the model has no prunable channel.
    """
    ratios, metric = check_ratios(ratios), options.data.metric
    assert not isinstance(metric, str)
    if not options.data.given:
        raise OptionError("sensitivity: requires --data, typical inputs; labels are not needed")
    progress("analyse", 0)
    analysis = analyse(read_graph(loaded.model, options.data.input_shape), options.selection.policy())
    eligible(analysis, options.selection, loaded.name)
    data = read_data(loaded, options, Effort(), progress)
    assert data is not None
    check_answered(loaded.model, data)
    options = replace(options, data=replace(options.data, input_shape=sizes_with(data, options.data.input_shape)))
    analysis = analyse(read_graph(loaded.model, options.data.input_shape), options.selection.policy())
    judge = Evaluator(loaded.model, data, metric, options.data.seed, threads=1)
    measure = name_of(metric)
    asked = _asked(loaded, options, data, measure)
    if known is not None and known.asked != asked:
        other = next(name for name in {**asked, **known.asked} if known.asked.get(name) != asked.get(name))
        raise OptionError(f"the earlier result was made with another {other}; choose another file, or --force to begin anew")
    space = _space(analysis, options, data, loaded.name)
    made = {(c.group, p.ratio): p for c in (known.curves if known else ()) for p in c.points}
    costs = macs_model(space.coupled)
    whole = costs.of(np.zeros(len(space.coupled.roots), bool))
    shares = [1 - costs.of(np.isin(space.coupled.roots, g.roots)) / max(whole, 1) for g in space.groups]

    def result() -> Sensitivity:
        curves = (
            Curve(g.name, len(g), share, tuple(made[key] for key in sorted(made) if key[0] == g.name))
            for g, share in zip(space.groups, shares, strict=True)
        )
        what = loss_of(judge.before, judge.before, measure).what
        before = judge.before.accuracy
        return Sensitivity(asked, loaded.name, options.data.source, len(data), measure, before, what, tuple(curves))

    wanted = [_Cut(k, r) for k, g in enumerate(space.groups) for r in ratios if (g.name, r) not in made]
    keep, saved, total = keep or (lambda found: None), time.monotonic(), max(len(space.groups) * len(ratios), 1)
    progress("sensitivity", 1 - len(wanted) / total)
    try:
        for k, (one, point) in enumerate(_judged(wanted, space, judge, measure, jobs or os.cpu_count() or 1)):
            if point is not None:
                made[space.groups[one.group].name, one.ratio] = point
            progress("sensitivity", 1 - (len(wanted) - k - 1) / total)
            if time.monotonic() - saved > SAVED_EVERY:
                keep(result())
                saved = time.monotonic()
    except KeyboardInterrupt:
        keep(result())
        raise
    keep(found := result())
    return found


def _judged(
    wanted: Sequence[_Cut], space: Space, judge: Evaluator, measure: str, jobs: int
) -> Iterator[tuple[_Cut, Point | None]]:
    """Each cut with what it loses, as they are done; few are waiting at a time."""
    left = iter(wanted)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[Point | None], _Cut] = {}
        try:
            while True:
                running |= {pool.submit(_point, one, space, judge, measure): one for one in islice(left, jobs - len(running))}
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _point(one: _Cut, space: Space, judge: Evaluator, measure: str) -> Point | None:
    """What a cut loses; None if a node cannot follow it."""
    units = space.units[one.group]
    kept = units.kept[-1] - round(one.ratio * int(units.kept[-1]))
    width = max(units.lowest, int(np.abs(units.kept - kept).argmin()))
    widths = [width if k == one.group else len(u.scores) for k, u in enumerate(space.units)]
    dropped = space.dropped(widths)
    left = int((~dropped[space.groups[one.group].roots]).sum())
    try:
        found = judge.judge(cut(space.coupled, dropped))
    except CutError:
        return None
    loss = loss_of(found, judge.before, measure).value
    return Point(one.ratio, left, found.lost, found.agreement, found.accuracy, loss)


def _space(analysis: Analysis, options: Options, data: Data, name: str) -> Space:
    """All groups that may be cut, with the order in which their channels go."""
    from onnxprune.data.batching import batched  # on demand, for a quick start

    coupled, groups = analysis.coupled, eligible(analysis, options.selection, name)
    batches = batched(data, coupled.graph.model) if options.calibrated else ()
    scored = Scorer(options.criterion, options.data.seed, batches).score(coupled, groups)
    known = [(g, s) for g, s in zip(groups, scored.scores, strict=True) if s is not None]
    return space_of(coupled, [g for g, _ in known], [s for _, s in known], Sizing())


def _asked(loaded: Loaded, options: Options, data: Data, measure: str) -> dict[str, str]:
    """What decides the figures."""
    selection = options.selection
    return {
        "model": loaded.sha256,
        "data": data.digest,
        "criterion": options.criterion,
        "metric": measure,
        "choice of weights": " ".join([*selection.include, "|", *selection.exclude]),
    }
