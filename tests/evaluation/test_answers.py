# SPDX-License-Identifier: Apache-2.0
"""Labels are used or refused, never dropped; and where the original says nothing, nothing is claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.evaluation.answers import answered, check_answered, with_class_numbers
from onnxprune.evaluation.evaluator import Evaluator, accuracy
from tests.cases.running import Array
from tests.cases.text import model

RNG = np.random.default_rng(0)
N, CLASSES = 8, 5


def same(shape: str, kind: str = "float") -> ModelProto:
    return model(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y) {{ y = Identity(x) }}")


def data(labels: Any, *shape: int) -> Data:
    x = RNG.standard_normal((N, *(shape or (CLASSES,)))).astype(np.float32)
    return Data(({"x": x},), np.asarray(labels))


NUMBERS = np.arange(N) % CLASSES
USED: dict[str, Any] = {
    "integers": NUMBERS,
    "unsigned": NUMBERS.astype(np.uint8),
    "whole floats": NUMBERS.astype(np.float64),
    "a column": NUMBERS[:, None],
    "one-hot": np.eye(CLASSES)[NUMBERS],
    "one-hot integers": np.eye(CLASSES, dtype=np.int64)[NUMBERS],
    "one-hot truth values": np.eye(CLASSES, dtype=bool)[NUMBERS],
}


@pytest.mark.parametrize("labels", USED.values(), ids=USED)
@pytest.mark.parametrize("trailing", [(), (1, 1)])
def test_labels_of_every_common_form_are_the_same_class_numbers(labels: Array, trailing: tuple[int, ...]) -> None:
    shape = (CLASSES, *trailing)
    net, given = same(",".join(["N", *map(str, shape)])), data(labels, *shape)
    found = with_class_numbers(net, given)
    assert found.labels is not None
    assert found.labels.ravel().tolist() == NUMBERS.tolist()
    x = given.chunks[0]["x"].reshape(N, CLASSES)
    assert accuracy(net, found) == (x.argmax(1) == NUMBERS).mean()
    assert ("one-hot" in " ".join(found.notes)) == (np.asarray(labels).shape[1:] == (CLASSES,))


def test_labels_of_every_position_may_be_one_hot_too() -> None:
    classes = RNG.integers(0, CLASSES, (N, 7))
    for shape, axis in (((7, CLASSES), -1), ((CLASSES, 7), 1)):
        hot = np.moveaxis(np.eye(CLASSES)[classes], -1, axis)
        found = with_class_numbers(same(",".join(["N", *map(str, shape)])), data(hot, *shape))
        assert found.labels is not None
        assert found.labels.tolist() == classes.tolist()


REFUSED: dict[str, tuple[Any, str]] = {
    "out of range": (
        np.where(NUMBERS == 3, 7, NUMBERS),
        r"label 7 \(sample 3, counted from 0\), .* scores 5 classes: expected 0 to 4",
    ),
    "counted from 1": (NUMBERS + 1, "do they count from 1"),
    "fractions": (NUMBERS + 0.5, "got the label 0.5, expected whole numbers"),
    "too large for an integer": (np.full(N, 1e300), "got the label 1e"),
    "soft": (np.full((N, CLASSES), 0.2), "got the label 0.2, .*one-hot"),
    "several classes at once": (np.ones((N, CLASSES)), r"labels of shape \[5\] per sample"),
    "another number of positions": (np.zeros((N, 2), int), r"labels of shape \[2\] per sample"),
    "words": (["ant"] * N, "text such as 'ant'"),
    "two columns in one": (["1;2"] * N, "text such as '1;2'"),
    "a word among numbers": (["1"] * (N - 1) + ["x"], "text such as 'x'"),
    "none that counts": (np.full(N, -1), "the numbers -1 stand for no class, and there are no other labels"),
}


@pytest.mark.parametrize(("labels", "why"), REFUSED.values(), ids=REFUSED)
def test_labels_that_cannot_be_used_are_refused(labels: Any, why: str) -> None:
    with pytest.raises(DataError, match=rf"^`labels`: .*{why}.*`metric`") as e:
        with_class_numbers(same(f"N,{CLASSES}"), data(labels), "--labels")
    assert "\n" not in str(e.value)


def test_labels_for_an_output_that_scores_nothing_are_refused() -> None:
    for net, shape in ((same("N,1"), (1,)), (same("N"), ())):
        x = RNG.standard_normal((N, *shape)).astype(np.float32)
        with pytest.raises(DataError, match="one label per sample, but the model's first output, 'y', has shape"):
            with_class_numbers(net, Data(({"x": x},), np.zeros(N, int)))


def test_labels_of_an_output_of_classes_are_compared_with_it() -> None:
    net, x = same("N", "int64"), NUMBERS.astype(np.int64)
    found = with_class_numbers(net, Data(({"x": x},), NUMBERS.astype(np.float32)[:, None]))
    assert accuracy(net, found) == 1.0


def test_labels_that_stand_for_no_class_are_counted_in_a_note() -> None:
    labels = NUMBERS.copy()
    labels[:3] = [-100, 255, -1]
    found = with_class_numbers(same(f"N,{CLASSES}"), data(labels))
    assert found.notes == ("3 of 8 labels do not count: the numbers -100, -1, 255",)


def test_texts_of_other_lengths_than_their_labels_are_refused() -> None:
    chunks = tuple({"x": RNG.standard_normal((4, length, 4)).astype(np.float32)} for length in (5, 7))
    with pytest.raises(DataError, match=r"labels of shape \[5\] per sample, .* has shape \[7, 4\]"):
        with_class_numbers(same("N,T,4"), Data(chunks, np.ones((8, 5), np.int64)))


# the root of the mean of the inputs: NaN below 0
BODY = """c = Conv <pads = [1,1,1,1]> (i, w1)  r = Relu(c)  d = Conv <pads = [1,1,1,1]> (r, w2)  p = GlobalAveragePool(d)
    f = Flatten(p)  q = ReduceMean <axes = [1,2,3], keepdims = 0> (i)  s = Sqrt(q)  u = Unsqueeze(s, one)"""
ROOTED = f"""g (float[N,3,6,6] i, float[16,3,3,3] w1, float[5,16,3,3] w2) => (float[N,5] y) <int64[1] one = {{1}}> {{
    {BODY}  y = Add(f, u) }}"""


def signed(negative: list[int], count: int = 20) -> Array:
    x = np.abs(RNG.standard_normal((count, 3, 6, 6))).astype(np.float32)
    x[negative] *= -1
    return x


@pytest.mark.parametrize("recover", ["none", "reconstruct"])
def test_samples_on_which_the_original_answers_nan_are_left_out_of_all_figures(recover: str) -> None:
    labels = np.arange(20) % 5
    given: dict[str, Any] = {"labels": labels, "recover": recover, "bench": False, "time_budget": "20s"}
    report = onnxprune.prune(model(ROOTED), 0.3, data={"i": signed([3, 7, 9])}, **given).report
    assert any(n.startswith("the original answers NaN or infinity on 3 of 20 samples") for n in report.notes)
    assert report.recovery is not None
    assert report.recovery.judged + report.recovery.fitted == 17
    assert all(a.judgement is not None and np.isfinite(a.judgement.lost) for a in report.recovery.attempts)
    assert report.recovery.attempts[0].judgement is not None
    assert report.recovery.attempts[0].judgement.lost > 0.01


def test_an_original_that_answers_nothing_is_an_error() -> None:
    x = signed(list(range(20)))
    for recover in ("none", "auto", "bias"):
        with pytest.raises(DataError, match="answers NaN or infinity on 20 of 20 samples, although the inputs are finite"):
            onnxprune.prune(model(ROOTED), 0.3, data={"i": x}, recover=recover, bench=False)


def test_infinite_answers_are_none_but_some_infinities_are() -> None:
    x = np.array([[1, 2], [np.inf, np.inf], [-np.inf, 1], [3, 4]], np.float32)
    (left,), note = answered(same("N,2"), Data(({"x": x},)))
    assert left.chunks[0]["x"].tolist() == x[[0, 2, 3]].tolist()
    assert "1 of 4 samples" in note[0]


def test_batches_of_a_fixed_size_go_as_a_whole() -> None:
    x = np.zeros((12, 2), np.float32)
    x[5] = np.nan
    (left,), note = answered(same("4,2"), Data(({"x": x},), fixed=4))
    assert (len(left), note[0].split(",")[0]) == (8, "the original answers NaN or infinity on 1 of 12 samples")


def test_samples_are_told_apart_where_the_output_does_not_count_them() -> None:
    net = model("g (float[N,2] x) => (float[2] y) <int64[1] a = {0}> { y = ReduceSum <keepdims = 0> (x, a) }")
    x = np.zeros((6, 2), np.float32)
    x[[1, 4]] = np.nan
    (left,), _ = answered(net, Data(({"x": x},)))
    assert len(left) == 4


def test_of_two_parts_one_may_be_empty() -> None:
    bad = Data(({"x": np.full((2, 2), np.nan, np.float32)},))
    (fit, held_out), note = answered(same("N,2"), bad, Data(({"x": np.zeros((3, 2), np.float32)},)))
    assert (len(fit), len(held_out), "2 of 5" in note[0]) == (0, 3, True)
    with pytest.raises(DataError, match="on 2 of 2 samples; leave them out"):
        check_answered(same("N,2"), bad)


def test_a_candidate_that_answers_nan_agrees_with_nothing_and_is_right_nowhere() -> None:
    net = model("g (float[N,5] x) => (float[N,5] y) <float z = {0}> { s = Mul(x, z)  y = Div(s, s) }")
    given = data(np.zeros(N, np.int64))
    judge = Evaluator(same("N,5"), given)
    judged = judge.judge(net)
    assert (judged.agreement, judged.accuracy, judged.ruined) == (0.0, 0.0, True)


def test_labels_count_where_some_scores_are_minus_infinity() -> None:
    """As logarithms of probabilities are; all classes at least are compared."""
    x = np.full((N, CLASSES), -np.inf, np.float32)
    x[np.arange(N), NUMBERS] = 0
    assert accuracy(same("N,5"), Data(({"x": x},), NUMBERS)) == 1.0
