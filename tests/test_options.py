# SPDX-License-Identifier: Apache-2.0
"""Options that are wrong, missing or contradict each other."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import signature
from typing import Any

import numpy as np
import pytest
from typing_extensions import TypeAliasType, TypeVar

import onnxprune
from onnxprune.cli.prune import prune as command
from onnxprune.cli.search import search
from onnxprune.cli.unify import BUDGET, unify
from onnxprune.errors import ModelError, OptionError, PlanError, PruneError
from onnxprune.options import GROUPS, HOME, SAID, Options, OutputOptions, RecoveryOptions, _classes
from onnxprune.selection.budget import TARGETS
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
        Options.of(ratio=0.5, **options)


def test_time_budgets_are_read_as_seconds() -> None:
    assert [RecoveryOptions(time_budget=t).seconds() for t in ("90s", "10m", "1h", 5, None)] == [90, 600, 3600, 5, 60]
    assert RecoveryOptions("distill").seconds() == 600


def test_an_unknown_keyword_is_refused_with_the_nearest_name() -> None:
    for call in (lambda: onnxprune.prune("no.onnx", ratoi=0.5), lambda: Options.of(ratoi=0.5)):
        with pytest.raises(OptionError, match=r"^ratoi: is not an option; did you mean 'ratio'\?"):
            call()
    with pytest.raises(OptionError, match="did you mean 'verify'"):
        onnxprune.apply_plan("no.onnx", "no.json", verfy=False)
    with pytest.raises(OptionError, match="did you mean 'carrier'"):
        onnxprune.analyze("no.onnx", carier="outer")


MISTYPED: dict[str, Any] = {
    "ratio": "0.5",
    "macs": [1],
    "params": [1],
    "size": [1],
    "memory": [1],
    "latency": [1],
    "max_loss": [1],
    "widths": 5,
    "normalise": 5,
    "layer_ratios": 5,
    "criterion": 3,
    "scores": 5,
    "scope": None,
    "align": None,
    "profile": 5,
    "other_machine": "no",
    "include": 3,
    "exclude": [3],
    "carrier": 3,
    "allow_renormalising": "no",
    "depth": "no",
    "data": 5,
    "preprocess": 5,
    "samples": "3",
    "labels": 5,
    "metric": 5,
    "input_shape": "1x3x8x8",
    "seed": 1.5,
    "recover": None,
    "rounds": 2.5,
    "time_budget": [],
    "work": 5,
    "unify": 1.5,
    "share": "0.5",
    "zero": None,
    "all_layers": "no",
    "runtime": 1.24,
    "verify": "no",
    "bench": 1,
    "threads": True,
}


ALONE: dict[str, Any] = {"scope": 3, "exclude": 3}
"""Values of a wrong type of the options that `unify` has for itself, though their names are those of others of `prune`."""


def test_every_option_has_a_test_with_a_value_of_a_wrong_type() -> None:
    assert {*MISTYPED, *(name for name, said in SAID.items() if said in ALONE)} == HOME.keys()
    assert ALONE.keys() == {*SAID.values()}


@pytest.mark.parametrize("name", MISTYPED)
def test_a_value_of_a_wrong_type_is_refused_in_one_line_that_names_the_argument(name: str) -> None:
    others = {} if name in ("ratio", "max_loss", *TARGETS) else {"ratio": 0.5}
    with pytest.raises(OptionError, match=rf"^`{name}`: got .*, expected ") as e:
        onnxprune.prune("no.onnx", **{**others, name: MISTYPED[name]})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ALONE)
def test_a_value_of_a_wrong_type_for_unify_is_refused_with_the_name_that_it_has_there(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^`{name}`: got 3, expected text"):
        onnxprune.unify("no.onnx", 16, **{name: ALONE[name]})


@pytest.mark.parametrize("name", ["ratio", "macs", "criterion", "rounds", "include", "leave", "block_scope", "verify"])
def test_options_of_other_functions_are_not_ignored_by_unify(name: str) -> None:
    given: dict[str, Any] = {name: 1}
    with pytest.raises(OptionError, match=f"^{name}: is not an option; "):
        onnxprune.unify("no.onnx", 16, **given)


@pytest.mark.parametrize("name", ["leave", "block_scope", "block"])
def test_options_of_unify_alone_are_not_ignored_by_prune(name: str) -> None:
    given: dict[str, Any] = {name: 1}
    with pytest.raises(OptionError, match=f"^{name}: is not an option; "):
        onnxprune.prune("no.onnx", 0.5, **given)


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(OptionError) as e:
        Options.of(ratio=0.5, data=np.ones((8, 3, 9, 9)))
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 200


def test_numbers_of_numpy_and_single_patterns_are_accepted() -> None:
    options = Options.of(ratio=np.float32(0.5), seed=np.int64(3), verify=np.True_, include="a*")
    assert options.selection.include == ("a*",)
    numbers = options.selection.ratio, options.data.seed, options.checks.verify
    assert [type(x) for x in numbers] == [float, int, bool], "plans are JSON, which holds no others"


def test_shapes_of_numpy_are_shapes() -> None:
    assert Options.of(ratio=0.5, input_shape={"x": np.array([1, 3, 8, 8])}).data.input_shape == {"x": (1, 3, 8, 8)}
    for wrong in ({1: (1, 3)}, {"x": "1x3"}, {"x": (2**40, 3)}, {"x": (True, 3)}, {"x": (1.0, 3)}, {"x": None}):
        with pytest.raises(OptionError, match="`input_shape`: got"):
            Options.of(ratio=0.5, input_shape=wrong)


def test_a_record_of_work_and_scores_are_checked_from_python_too() -> None:
    for option, wrong, why in (
        ("work", {"samples": float("nan")}, "expected whole numbers"),
        ("scores", {"w1": [[1], [1, 2]]}, "'w1' is not an array of numbers"),
        ("scores", {"w1": [1.0, float("nan")]}, r"'w1' contains NaN or infinity, first at \[1\]"),
    ):
        with pytest.raises(PruneError, match=f"`{option}`: .*{why}"):
            pruned(small(), 0.5, **{option: wrong})


@pytest.mark.parametrize("model", [3, None])
def test_a_model_of_a_wrong_type_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="expected a path"):
        onnxprune.prune(model, 0.5)


def test_a_plan_of_a_wrong_type_is_refused() -> None:
    for call in (lambda: onnxprune.apply_plan(small(), 5), lambda: onnxprune.verify_files(small(), small(), 5)):  # type: ignore[arg-type]
        with pytest.raises(PlanError, match="the plan: got 5"):
            call()


def test_a_default_that_differs_between_python_and_the_command_line_is_detected() -> None:
    """One set of names and defaults: keywords of `prune`, options of the command line, and the five groups."""
    keywords = {
        k: p.default for k, p in signature(onnxprune.prune).parameters.items() if k not in ("model", "progress", "unknown")
    }
    flags = {k: p.default for k, p in signature(command).parameters.items() if k != "model"}
    groups = {f.name: f for kind in (*GROUPS.values(), OutputOptions) for f in fields(kind)}
    defaults = {k: f.default if f.default is not MISSING else () for k, f in groups.items()}
    assert {k: v or None for k, v in keywords.items()} == {
        k: v or None for k, v in defaults.items() if k in HOME and k not in SAID
    }
    assert keywords.keys() == HOME.keys() - SAID.keys()
    assert flags.keys() == {*groups, "format", "pack"} - SAID.keys()
    assert {k: v or None for k, v in flags.items() if k in HOME} == {k: v or None for k, v in keywords.items()}


def test_a_default_of_unify_that_differs_between_python_and_the_command_line_is_detected() -> None:
    arguments = {k: p.default for k, p in signature(onnxprune.unify).parameters.items()}
    keywords = {k: v for k, v in arguments.items() if k not in ("model", "progress", "unknown")}
    flags = {k: p.default for k, p in signature(unify).parameters.items() if k != "model"}
    own = {"output", "plan", "force", "pack", "format"}
    assert flags.keys() - own == keywords.keys()
    keywords |= {"block": str(keywords["block"]), "time_budget": None}
    assert {k: v or None for k, v in flags.items() if k not in own} == {k: v or None for k, v in keywords.items()}
    assert arguments["time_budget"] == BUDGET


def test_a_default_of_search_that_differs_between_python_and_the_command_line_is_detected() -> None:
    keywords = {
        k: p.default for k, p in signature(onnxprune.search).parameters.items() if k not in ("model", "progress", "unknown")
    }
    flags = {k: p.default for k, p in signature(search).parameters.items() if k != "model"}
    own = {"output", "picture", "format", "force", "strict"}
    assert flags.keys() - own == keywords.keys()
    keywords["data"] = None  # which Python requires by its signature
    assert {k: v or None for k, v in flags.items() if k not in own} == {k: v or None for k, v in keywords.items()}


@pytest.mark.parametrize("name", ["depth", "layer_ratios", "profile", "other_machine"])
def test_a_value_of_a_wrong_type_for_search_is_refused_in_one_line_that_names_the_argument(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^`{name}`: got .*, expected ") as e:
        onnxprune.search("no.onnx", "no.npz", macs="50%", **{name: MISTYPED[name]})
    assert "\n" not in str(e.value)


def test_an_annotation_may_be_an_alias_of_a_generic_class() -> None:
    """NumPy 2.5 declares NDArray by a `type` statement, whose origin is no class."""
    kind = TypeVar("kind")
    alias: Any = TypeAliasType("alias", list[kind], type_params=(kind,))  # type: ignore[arg-type]
    assert tuple(_classes(alias[int] | str)) == (list, str)
