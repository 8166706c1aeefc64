# SPDX-License-Identifier: Apache-2.0
"""Union-find: ties are an equivalence, pins spread along it, and trying ties changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.analysis.labels import Labels, Pin, distinct

PAIRS = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25)
WHY = Pin("Node 'n'", "needs them")


def classes(pairs: list[tuple[int, int]], count: int = 20) -> list[int]:
    """The smallest member of each label's class, the slow way."""
    root = list(range(count))
    for _ in pairs:
        for a, b in pairs:
            low = min(root[a], root[b])
            root = [low if r in (root[a], root[b]) else r for r in root]
    return root


@given(PAIRS)
def test_ties_are_an_equivalence(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    labels.fresh(20)
    for a, b in pairs:
        labels.tie(np.array([a]), np.array([b]), 0)
    assert labels.root(np.arange(20)).tolist() == classes(pairs)


@given(PAIRS)
def test_ties_made_at_once_equal_ties_made_one_by_one(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    labels.fresh(20)
    a, b = (np.array([p[k] for p in pairs], np.int64) for k in (0, 1))
    labels.tie(a, b, 0)
    assert labels.root(np.arange(20)).tolist() == classes(pairs)


@given(PAIRS, st.sets(st.integers(0, 19)), st.integers(0, 25))
def test_a_pin_pins_its_class_whenever_it_is_made(pairs: list[tuple[int, int]], pinned: set[int], when: int) -> None:
    labels = Labels()
    labels.fresh(20)
    for k, (a, b) in enumerate(pairs):
        if k == when:
            labels.pin(np.array(sorted(pinned), np.int64), WHY)
        labels.tie(np.array([a]), np.array([b]), 0)
    if when >= len(pairs):
        labels.pin(np.array(sorted(pinned), np.int64), WHY)
    root = classes(pairs)
    pinned_roots = {root[p] for p in pinned}
    assert labels.free().tolist() == [r not in pinned_roots for r in root]


@given(PAIRS, PAIRS)
def test_trying_ties_counts_classes_and_changes_nothing(made: list[tuple[int, int]], tried: list[tuple[int, int]]) -> None:
    labels = Labels()
    labels.fresh(20)
    for a, b in made:
        labels.tie(np.array([a]), np.array([b]), 0)
    before = labels.root(np.arange(20)).tolist()
    found = labels.atoms_left([(np.array([a]), np.array([b])) for a, b in tried], np.arange(20))
    assert found == len(set(classes(made + tried)))
    assert labels.root(np.arange(20)).tolist() == before


def test_labels_keep_their_pins_as_more_are_made() -> None:
    labels = Labels()
    first = labels.fresh(3)
    labels.pin(first[:1], WHY)
    second = labels.fresh(5000)
    assert second.tolist() == list(range(3, 5003))
    assert labels.free().tolist() == [False] + [True] * 5002


def test_fixed_labels_pin_what_they_are_tied_to() -> None:
    labels = Labels()
    a = labels.fresh(2)
    labels.tie(a, labels.fixed(2, WHY), 0)
    assert not labels.free().any()
    assert str(labels.pins[0][1]) == "Node 'n' needs them"


def test_distinct_labels_equal_those_of_numpy() -> None:
    for x in (np.array([5, 0, 5, 3, 0]), np.array([], np.int64), np.array([[-1, 2], [2, -1]])):
        assert distinct(x).tolist() == np.unique(x).tolist()


def test_marks_of_one_use_are_not_seen_by_the_next() -> None:
    labels = Labels()
    x = labels.fresh(3000)
    with labels.marked([x[:2], np.array([-1])]) as marks:
        assert np.flatnonzero(marks[x]).tolist() == [0, 1]
    with labels.marked([]) as marks:
        assert not marks.any()
