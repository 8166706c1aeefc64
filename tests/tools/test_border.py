# SPDX-License-Identifier: Apache-2.0
"""The border up to which made-up inputs are trusted is chosen by networks other than the one it judges."""

import pytest
from border import Cut, Rule, bands, border_of, cuts, left_out, summary, table, verdict

RULE = Rule()


def cut(family: str, mismatch: float | None, none: float, made: float) -> Cut:
    fits = {} if mismatch is None else dict.fromkeys(("mismatch", "worst", "late"), mismatch)
    return Cut(family, family, 0.5, fits, none, none, made, 1.0, (1.0, 1.0))


FOUND = [cut("a", 0.1, 0.5, 0.9), cut("b", 0.4, 0.5, 0.8), cut("c", 1.6, 0.5, 0.1), cut("d", None, 0.5, 0.1)]


def test_the_border_lies_midway_between_what_gains_and_what_harms() -> None:
    assert border_of(FOUND, "mismatch", RULE) == pytest.approx(0.8)


def test_a_family_has_no_vote_on_its_own_border() -> None:
    assert left_out(FOUND, "mismatch", RULE)["b"] == pytest.approx(0.4)  # the root of 0.1 x 1.6
    assert left_out(FOUND, "mismatch", RULE)["c"] > 0.4


def test_misses_are_named_both_ways() -> None:
    assert FOUND[2].miss("mismatch", 2.0, RULE) == "kept, although worse"
    assert FOUND[1].miss("mismatch", 0.2, RULE) == "not kept, although better"
    assert not cut("e", 0.1, 0.5, 0.495).miss("mismatch", 1.0, RULE)  # a tie


def test_harm_counts_more_than_gain() -> None:
    found = [cut("a", 0.1, 0.5, 0.9), cut("b", 0.2, 0.5, 0.3), cut("c", 0.3, 0.5, 0.8)]
    assert border_of(found, "mismatch", RULE) < 0.2
    assert border_of(found, "mismatch", Rule(price=1.0)) > 0.3


def test_networks_without_statistics_are_never_fitted() -> None:
    assert not FOUND[3].kept("mismatch", 1e9)


def test_the_tables_can_be_printed() -> None:
    lines = [
        *table(FOUND, "mismatch", RULE),
        *bands(FOUND, "mismatch", RULE),
        *summary(FOUND, RULE),
        *verdict(FOUND, "mismatch", RULE),
    ]
    assert sum(line.startswith("| 0") for line in lines) == 3  # 0.05 to 0.1, 0.2 to 0.4, 0.8 to 1.6
    assert any("no statistics" in line for line in lines)


def test_cuts_need_none_and_made() -> None:
    fit = {"mismatch": 0.2, "worst": 0.3, "late": 0.2, "layers": 4, "linear": 5}
    truth = {"metric": 0.5, "original": 0.9, "error": 0.7}
    rows = [{"name": "n", "family": "f", "ratio": 0.3, "way": way, "truth": truth, "made": fit} for way in ("none", "made")]
    assert [c.fits["mismatch"] for c in cuts(rows)] == [0.2]
    assert not cuts(rows[:1])
    few = [{**row, "made": {**fit, "layers": 1}} for row in rows]
    assert cuts(few)[0].fits == {}
