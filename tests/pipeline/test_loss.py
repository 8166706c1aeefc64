# SPDX-License-Identifier: Apache-2.0
"""What may be lost: measured with its interval, searched for alone, and a limit beside targets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.effort import Effort
from onnxprune.errors import OptionError
from onnxprune.evaluation.evaluator import Judgement
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.loss import LEAST, TRIES, Loss, deepest, loss_of, wilson
from tests.cases.nets import TRAINED, pruned

DATA = TRAINED.with_suffix(".npz")


def judgement(accuracy: float | None = None, agreement: float | None = None, n: int = 400, lost: float = 0.1) -> Judgement:
    return Judgement(lost, "", agreement, 0.1, accuracy, lost, n)


def test_with_labels_points_of_accuracy_are_lost() -> None:
    found = loss_of(judgement(0.90, 0.93), judgement(0.92, 1.0), "top-1")
    assert found.value == pytest.approx(0.02)
    assert (found.what, found.samples) == ("points of accuracy", 400)
    assert found.low is not None
    assert found.high is not None
    # 7 % of the answers changed: the difference of two such counts has that variance per sample
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * (0.07 / 400) ** 0.5, rel=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, n, inside = np.random.default_rng(0), 300, 0
    for _ in range(400):
        before = rng.random(n) < 0.9
        changed = rng.random(n) < 0.08
        after: NDArray[np.bool_] = np.where(changed, rng.random(n) < 0.7, before)
        agreement = 1 - float((changed & (before != after)).mean())
        found = loss_of(judgement(float(after.mean()), agreement, n), judgement(float(before.mean()), 1.0, n), "top-1")
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.08 * (0.9 - 0.7) <= found.high
    assert 0.93 <= inside / 400 <= 1.0


def test_none_lost_among_few_samples_is_not_certain() -> None:
    found = loss_of(judgement(0.9, 1.0, 20), judgement(0.9, 1.0, 20), "top-1")
    assert found.value == 0
    assert found.high is not None
    assert found.high > 0.05
    assert wilson(0.0, 20)[1] > 0.1


def test_a_metric_loses_a_share_of_its_value_and_answers_are_counted_without_labels() -> None:
    found = loss_of(judgement(30.0, 0.9), judgement(40.0, 1.0), "dice")
    assert (found.value, found.low, found.what) == (0.25, None, "of dice")
    found = loss_of(judgement(None, 0.97), judgement(None, 1.0), "top-1")
    assert found.value == pytest.approx(0.03)
    assert found.what == "of the original's answers"
    found = loss_of(judgement(None, None, lost=0.4), judgement(None, None), "top-1")
    assert (found.value, found.low) == (0.4, None)


def searched(losses: Any, most: float, floor: float = 0.0) -> tuple[float, str]:
    """The share that a search ends with, if a cut to a share loses `losses(share)` and none gets below `floor`."""

    def attempt(share: float, effort: Effort) -> Any:
        cost = SimpleNamespace(of=lambda dropped: max(share, floor))
        limit: Any = SimpleNamespace(cost=cost, most=share)
        nothing: Any = None
        return Decision(nothing, np.array([max(share, floor)]), nothing, (), limits=(limit,)), nothing

    made = list[float]()

    def recorded(share: float, effort: Effort) -> Any:
        made.append(share)
        return attempt(share, effort)

    def loss(recovery: Any) -> Loss:
        return Loss(losses(made[-1]), None, None, "", 1)

    decision, _ = deepest(recorded, loss, most, Effort())
    assert len(made) <= TRIES
    assert decision.limits == ()
    return float(decision.dropped[0]), decision.notes[-1]


@pytest.mark.parametrize("border", [0.1, 0.3, 0.7, 0.95])
def test_the_search_ends_near_the_border_and_on_its_allowed_side(border: float) -> None:
    share, story = searched(lambda share: 0.0 if share >= border else 1.0, 0.01)
    assert border <= share <= border + (1 - LEAST) / 2 ** (TRIES - 1)
    assert story.count("of the MACs") == TRIES


def test_a_loss_of_exactly_what_is_allowed_is_allowed() -> None:
    share, _ = searched(lambda share: 0.93 - 0.92, 0.01)
    assert share < 0.1


def test_the_search_ends_where_nothing_deeper_can_be_cut() -> None:
    share, story = searched(lambda share: 0.0, 0.01, floor=0.4)
    assert share == 0.4
    assert story.count("of the MACs") == 2


def test_if_every_cut_loses_too_much_the_mildest_is_returned() -> None:
    share, _ = searched(lambda share: 1.0, 0.01)
    assert share > 0.97


def test_alone_it_is_searched_for_and_what_was_tried_is_told() -> None:
    result = pruned(TRAINED, max_loss="10%", data=DATA, samples=200, recover="none", verify=False)
    report = result.report
    assert report.loss is not None
    assert report.loss.met
    assert report.loss.reached <= 0.1
    assert 0.3 < report.macs.kept < 0.98
    assert any(note.startswith("tried, and what was lost on held-out samples") for note in report.notes)
    assert result.plan.made_by["max_loss"] == "10%"
    assert not report.missed


def test_beside_a_target_it_is_a_limit() -> None:
    report = pruned(TRAINED, macs="40%", max_loss="1%", data=DATA, samples=200, recover="none", verify=False).report
    assert report.missed
    assert report.loss is not None
    assert not report.loss.met
    assert any(
        "are lost (95 % interval: " in warning and "more than the 1% that are allowed" in warning for warning in report.warnings
    )
    report = pruned(TRAINED, 0.05, max_loss="40%", data=DATA, samples=200, recover="none", verify=False).report
    assert not report.missed


def test_without_real_inputs_it_is_refused() -> None:
    with pytest.raises(OptionError, match="`max_loss`: requires `data`"):
        pruned(TRAINED, max_loss="1%")
