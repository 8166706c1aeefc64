# SPDX-License-Identifier: Apache-2.0
"""Options that are wrong, missing or contradict each other."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import signature
from typing import Any

import pytest

import onnxprune
from onnxprune.cli.prune import prune as command
from onnxprune.errors import OptionError
from onnxprune.options import GROUPS, HOME, OutputOptions, RecoveryOptions
from tests.cases.nets import pruned, small


def test_both_or_neither_of_ratio_and_budget_is_refused() -> None:
    with pytest.raises(OptionError, match="got neither"):
        pruned(small())
    with pytest.raises(OptionError, match="got both"):
        pruned(small(), 0.5, macs="50%")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recover": "magic"}, "recover`: got 'magic'; expected one of auto, none, bias, reconstruct, distill"),
        ({"rounds": 0}, "rounds`: got 0"),
        ({"rounds": 2, "recover": "none"}, "rounds`: needs a recovery after each round"),
        ({"time_budget": "soon"}, "time_budget`: got 'soon', expected a time such as 90s, 10m or 1h"),
        ({"criterion": "obs", "recover": "none"}, "criterion` obs: uses activations"),
    ],
)
def test_an_invalid_option_value_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxprune.Options.of(ratio=0.5, **options)


def test_time_budgets_are_read_as_seconds() -> None:
    assert [RecoveryOptions(time_budget=t).seconds() for t in ("90s", "10m", "1h", 5, None)] == [90, 600, 3600, 5, None]


def test_an_unknown_keyword_is_refused_with_the_nearest_name() -> None:
    for call in (lambda: onnxprune.prune("no.onnx", ratoi=0.5), lambda: onnxprune.Options.of(ratoi=0.5)):
        with pytest.raises(OptionError, match=r"^ratoi: is not an option; did you mean 'ratio'\?"):
            call()
    with pytest.raises(OptionError, match="did you mean 'verify'"):
        onnxprune.apply_plan("no.onnx", "no.json", verfy=False)


def test_a_default_that_differs_between_python_and_the_command_line_is_detected() -> None:
    """One set of names and defaults: keywords of `prune`, options of the command line, and the five groups."""
    keywords = {
        k: p.default for k, p in signature(onnxprune.prune).parameters.items() if k not in ("model", "progress", "unknown")
    }
    flags = {k: p.default for k, p in signature(command).parameters.items() if k != "model"}
    groups = {f.name: f for kind in (*GROUPS.values(), OutputOptions) for f in fields(kind)}
    defaults = {k: f.default if f.default is not MISSING else () for k, f in groups.items()}
    assert {k: v or None for k, v in keywords.items()} == {k: v or None for k, v in defaults.items() if k in HOME}
    assert keywords.keys() == HOME.keys()
    assert flags.keys() == {*groups, "picture", "format"}
    assert {k: v or None for k, v in flags.items() if k in HOME} == {k: v or None for k, v in keywords.items()}
