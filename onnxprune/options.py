# SPDX-License-Identifier: Apache-2.0
"""The user's options as checked values: five groups, with the same option names in Python and on the command line."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.compression.blocks import BlockShape
from onnxprune.compression.carrier import Codes, codes_for
from onnxprune.compression.choice import Shares
from onnxprune.cost.profile import Profile
from onnxprune.data.load import MADE, Labels, Source
from onnxprune.data.preprocess import settings_of
from onnxprune.data.samples import Data
from onnxprune.errors import OptionError, did_you_mean
from onnxprune.evaluation.evaluator import Metric
from onnxprune.ir.placing import check_distinct, data_beside
from onnxprune.recovery import METHODS
from onnxprune.selection.alignment import Alignment, auto_alignment, measured_alignment
from onnxprune.selection.bounds import LayerRatios
from onnxprune.selection.budget import TARGETS, Amount, amount, fraction
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.selection.criteria.weights import NORMALISERS
from onnxprune.types import Array, Shapes

LARGEST = 2**31
"""Sizes of inputs are below this."""
SEEDS = 2**63
"""Seeds are below this: every generator takes them."""
MOST_THREADS = max(32, 4 * (os.cpu_count() or 1))
"""Of the benchmark: with many more threads than cores, a run of a small network takes seconds, and a latency minutes."""
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
USUAL, LONG = 60.0, 600.0
"""Default time budgets in seconds: of most calls, and of training."""
WIDTHS = ("order", "knapsack")
SCOPES = ("global", "isomorphic", "local")
WITH_DATA, WITHOUT_DATA = "obs", "ccprune"
"""Default criteria."""
KINDS: Mapping[Any, str] = MappingProxyType(
    {
        bool: "True or False",
        Integral: "a whole number",
        Real: "a number",
        str: "text",
        Path: "a path",
        Collection: "a list",
        np.ndarray: "an array",
        Mapping: "a mapping",
        Callable: "a function",
        Data: "loaded samples",
        Profile: "a profile",
    }
)
"""Class of an option's value -> its name in messages."""


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which channels are dropped.

    Attributes:
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1; None if a limit is given instead.
        macs, params, size, memory: instead of `ratio`, what may remain of the multiply-accumulates, the parameters, the bytes
            of the written files, and the bytes of weights and activations while the model runs: "50%", "300M", "2MB", or a
            number. All that are given must hold.
        latency: the time of one run that may remain, measured here: "50%" or "12ms".
        max_loss: the most that may be lost on held-out samples, as "1%" or a fraction: points of accuracy, a share of the
            metric, or, without labels, of the original's answers. Beside a ratio or targets it is a limit; alone, the deepest
            cut that holds it is searched for.
        criterion: a name in `selection.criteria.NAMES`; None: `obs` if there are inputs to recover with, else `ccprune`.
        scores: path of an .npz, or weight name -> scores, instead of the criterion.
        scope: "global", "isomorphic" or "local".
        normalise: how scores of layers are made comparable: "mean", "max", "standard" or "none"; None: as the criterion is
            meant.
        widths: "order" takes channels in the order of their scores; "knapsack" chooses the widths within targets all at once.
        layer_ratios: TOML file, or pattern of weight names -> the fraction to remove, or the fractions that must and may be
            kept (`selection.bounds`).
        align: "auto", "none", or a number of channels.
        profile: file of `onnxprune profile`, or what it holds, from which `align="auto"` and the latency model take the widths
            at which a runtime gains; None: those of the processor, or with `latency`, of this machine's own profile.
        other_machine: whether latencies may be measured here although the profile was measured on another machine.
        include, exclude: glob patterns of the names of weights that may, or must not, be cut; a tuple, even if one is given.
        carrier: which factor of a split axis is cut: "outer" (whole heads, whole groups), "inner" (the size of every head, the
            members of every group) or "auto"; also by patterns of weight names, `["*attn*=outer"]`.
        allow_renormalising: whether means, normalisations and softmax over channels may work on the kept channels.
        depth: whether whole residual branches may go, too.
    """

    ratio: float | None = None
    macs: str | float | None = None
    params: str | float | None = None
    size: str | float | None = None
    memory: str | float | None = None
    latency: str | float | None = None
    max_loss: str | float | None = None
    criterion: str | None = None
    scores: str | Path | Mapping[str, Array] | None = None
    scope: str = "global"
    normalise: str | None = None
    widths: str = "order"
    layer_ratios: str | Path | Mapping[str, Any] | LayerRatios | None = None
    align: str | int = "auto"
    profile: str | Path | Profile | None = None
    other_machine: bool = False
    include: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    carrier: str | Sequence[str] = ()
    allow_renormalising: bool = False
    depth: bool = False

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range, before any work is done."""
        _check_types(self)
        for name in ("include", "exclude", "carrier"):
            given = getattr(self, name)
            patterns = (given,) if isinstance(given, str) else tuple(given)
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise OptionError(f"--{name}: got {_short(given)}, expected text or a list of texts")
            object.__setattr__(self, name, patterns)
        targets = self.targets()
        self.most_lost()
        states = bool(targets) or (self.layer_ratios is not None and self.ratio is None)
        if (self.ratio is None) != states and not self.searches:
            got = "neither" if self.ratio is None else "both"
            names = ", --".join(("ratio", *(targets or TARGETS)))
            wanted = "expected what to remove (--ratio 0.5), or what may remain (50%, 300M, 2MB)"
            raise OptionError(f"--{names}: got {got}, {wanted}")
        _check_choice("--widths", self.widths, WIDTHS)
        if self.widths != "order" and (not targets or self.scope != "global"):
            raise OptionError("--widths: knapsack needs targets, such as --macs 50%, and --scope global")
        if self.depth and not targets:
            raise OptionError("--depth: needs a target that channels and branches share, such as --macs 50% or --latency 50%")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise OptionError(
                f"--ratio: got {self.ratio:g}, expected 0 <= ratio < 1, the fraction of channels to remove (0.5 = half)"
            )
        _check_choice("--scope", self.scope, SCOPES)
        if self.normalise is not None:
            _check_choice("--normalise", self.normalise, tuple(NORMALISERS))
        if self.criterion is not None:
            _check_choice("--criterion", self.criterion, NAMES)
        self.alignment()
        self.policy()
        self._check_profile()

    def _check_profile(self) -> None:
        if self.other_machine and self.profile is None:
            raise OptionError("--other-machine: requires --profile, which is missing; give the file of the other machine")
        if self.profile is not None and self.latency is None and str(self.align).lower() != "auto":
            raise OptionError(f"--profile: decides what --align auto means, but --align is {self.align}; take one of them away")

    def alignment(self) -> Alignment:
        """The multiple that widths are rounded to."""
        text = str(self.align).lower()
        if text == "auto":
            return self.fast_widths()
        if text == "none":
            return Alignment(1, "not asked for")
        if re.fullmatch("[0-9]{1,9}", text) and int(text) > 0:
            return Alignment(int(text), "as asked")
        raise OptionError(f"--align: got '{self.align}', expected auto, none, or a number of channels such as 8")

    def fast_widths(self) -> Alignment:
        """The multiple at which the runtime gains: measured, if a profile was read, or else by the processor."""
        return measured_alignment(self.profile) if isinstance(self.profile, Profile) else auto_alignment()

    def policy(self) -> Policy:
        """The options of the analysis."""
        return Policy(read_carrier(self.carrier), self.allow_renormalising)

    @property
    def searches(self) -> bool:
        """Whether the deepest cut is searched for that loses no more than is allowed."""
        others = self.ratio, self.layer_ratios
        return self.max_loss is not None and others == (None, None) and not self.targets()

    def most_lost(self) -> float | None:
        """The most that may be lost, as a fraction; None if anything may."""
        return None if self.max_loss is None else fraction(self.max_loss, "--max-loss")

    def targets(self) -> dict[str, Amount]:
        """What may remain, by the names of `TARGETS`; none if a ratio is given instead."""
        given = {name: getattr(self, name) for name in TARGETS}
        return {name: amount(value, name) for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Typical inputs, and how to judge the results on them.

    Attributes:
        data: inputs, as accepted by `load_data`: a path, `module:function`, `synthetic`, `random`, or arrays.
        preprocess: how images are converted to inputs, as in `size=224x224,mean=0.5,std=0.5`.
        samples: maximum number of samples.
        labels: one per sample, or a file of labels.
        metric: how good the outputs are, as a function (see `evaluation.evaluator.Metric`) or as `module:function`.
        input_shape: input name -> shape, for dimensions that are dynamic in the file.
        seed: seed for all random choices.
    """

    data: Source | None = None
    preprocess: str | None = None
    samples: int | None = None
    labels: Labels | None = None
    metric: str | Metric | None = None
    input_shape: Shapes = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range, and options about inputs that are not given or have no answer."""
        _check_types(self)
        object.__setattr__(self, "input_shape", check_input_shape(self.input_shape))
        if self.labels is not None and isinstance(self.data, str) and self.data in MADE:
            raise OptionError(
                f"--labels: generated inputs (--data {self.data}) have no true labels; give real ones with --data"
            )
        for name in ("samples", "labels", "metric"):
            if self.data is None and getattr(self, name) is not None:
                raise OptionError(f"--{name}: requires --data, which is missing; give both")
        settings_of(self.preprocess or "")
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"--samples: got {self.samples}, expected at least 1")
        if not 0 <= self.seed < SEEDS:
            raise OptionError(f"--seed: got {self.seed}, expected 0 or more, and less than 2^63")

    @property
    def given(self) -> bool:
        """Whether there are inputs of the user, not generated ones."""
        return self.data is not None and not (isinstance(self.data, str) and self.data in MADE)

    @property
    def source(self) -> str:
        """The name of the inputs in reports."""
        return str(self.data) if isinstance(self.data, str | Path) else "the given arrays"


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """How accuracy is recovered.

    Attributes:
        recover: the method used after the cut: a name in `recovery.METHODS`.
        rounds: number of steps in which to cut, with a recovery after each.
        time_budget: time for all work on samples, as "10m" or in seconds; None: a minute, for `distill` ten.
        work: path of a plan, or numbers by name, of an earlier run, which is repeated: what time decided then is not measured
            again.
    """

    recover: str = "auto"
    rounds: int = 1
    time_budget: str | float | None = None
    work: str | Path | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range."""
        _check_types(self)
        _check_choice("--recover", self.recover, METHODS)
        if self.rounds < 1:
            raise OptionError(f"--rounds: got {self.rounds}, expected at least 1")
        if self.rounds > 1 and self.recover == "none":
            raise OptionError("--rounds: needs a recovery after each round, but --recover is none; choose reconstruct or auto")
        self.seconds()

    def seconds(self) -> float:
        """Time for all work on samples."""
        if self.time_budget is None:
            return LONG if self.recover == "distill" else USUAL
        match = re.fullmatch(r"([0-9]+\.?[0-9]*)\s*([smh]?)", str(self.time_budget).strip().lower())
        if not match or not 0 < float(match[1]) * SECONDS[match[2]] < math.inf:
            raise OptionError(f"--time-budget: got '{self.time_budget}', expected a time such as 90s, 10m or 1h")
        return float(match[1]) * SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How the result is checked.

    Attributes:
        verify: whether to compare the result with the original in which the removed channels are zeroed.
        bench: whether to time both models.
        threads: number of onnxruntime threads in the benchmark.
    """

    verify: bool = True
    bench: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range."""
        _check_types(self)
        if self.threads < 1:
            raise OptionError(f"--threads: got {self.threads}, expected at least 1")
        if self.threads > MOST_THREADS:
            raise OptionError(
                f"--threads: got {self.threads}, expected at most {MOST_THREADS:,} on this machine: more only wait"
            )


@dataclass(frozen=True, slots=True)
class UnificationOptions:
    """Whether the weights of small blocks share a magnitude afterwards.

    Attributes:
        unify: size of the blocks, as in "16" (inputs), "4x4" (outputs x inputs) or "1x8x3x3"; None: they do not.
        share: share of all blocks that get one magnitude; None: all that `zero` leaves.
        zero: share of all blocks that are zeroed first.
        block_scope: whether these are shares of all weights together, "global", or of each, "local".
        leave: patterns of the names of weights that stay as they are.
        all_layers: whether first and last layers are unified too.
        runtime: the oldest onnxruntime that must load the file, as "1.24"; None: any that this program supports.
    """

    unify: str | int | None = None
    share: float | None = None
    zero: float = 0.0
    block_scope: str = "global"
    leave: str | Sequence[str] = ()
    all_layers: bool = False
    runtime: str | None = None

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range."""
        _check_types(self)
        object.__setattr__(self, "leave", (self.leave,) if isinstance(self.leave, str) else tuple(self.leave))
        if self.on:
            self.block()
            self.shares()
            self.codes()
            return
        given = {"share": self.share is not None, "zero": self.zero, "all-layers": self.all_layers, "runtime": self.runtime}
        for name, value in given.items():
            if value:
                raise OptionError(f"--{name}: requires --unify, which is missing; give the size of the blocks, as --unify 16")

    @property
    def on(self) -> bool:
        """Whether weights are unified."""
        return self.unify is not None

    def block(self) -> BlockShape:
        """The size of the blocks."""
        return BlockShape.parse(str(self.unify))

    def shares(self) -> Shares:
        """How many blocks are unified."""
        return Shares(1 - self.zero if self.share is None else self.share, self.zero, self.block_scope)

    def codes(self) -> Codes:
        """The type of the codes in the file."""
        shares = self.shares()
        return codes_for(self.runtime, max(0.0, 1 - shares.shared - shares.zero))

    def asked(self) -> dict[str, Any]:
        """The options that decide what is unified, for plans and reports."""
        if not self.on:
            return {}
        shares = self.shares()
        return {
            "unify": str(self.block()),
            **({"share": shares.shared} if not shares.everything else {}),
            **({"zero": shares.zero} if shares.zero else {}),
            **({"block_scope": shares.scope} if not shares.everything else {}),
            **({"leave": list(self.leave)} if self.leave else {}),
            **({"all_layers": True} if self.all_layers else {}),
            **({"runtime": self.runtime} if self.runtime else {}),
        }


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results are written.

    Attributes:
        output: file of the pruned model.
        plan: file of the plan, which lists the positions of weights that are kept; None: not written.
        picture: file of the picture, an SVG; None: not drawn.
        force: whether existing files are replaced.
        strict: whether nothing is written if a stated limit was missed.
        dry_run: whether the model is not written.
    """

    output: Path
    plan: Path | None = None
    picture: Path | None = None
    force: bool = False
    strict: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Reject a path for two files, and a picture that is not an SVG."""
        check_distinct({"model": self.output, "weights": data_beside(self.output), **self.places})
        check_picture(self.picture)

    @property
    def places(self) -> dict[str, Path | None]:
        """What each file is for -> its path, without the file that a model may need for its weights."""
        model = {} if self.dry_run else {"model": self.output}
        return {**model, "plan": self.plan, "picture": self.picture}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one pruning, except where its files are written (`OutputOptions`).

    Attributes:
        selection: which channels are dropped.
        data: typical inputs, and how to judge the results on them.
        recovery: how accuracy is recovered.
        checks: how the result is checked.
        unification: whether the weights of small blocks share a magnitude afterwards.
    """

    selection: SelectionOptions
    data: DataOptions = field(default_factory=DataOptions)
    recovery: RecoveryOptions = field(default_factory=RecoveryOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)
    unification: UnificationOptions = field(default_factory=UnificationOptions)

    def __post_init__(self) -> None:
        """Reject options that conflict."""
        needs = self.selection.criterion in CALIBRATED and self.selection.scores is None
        if needs and self.data.data is None and self.recovery.recover == "none":
            what = f"--criterion {self.selection.criterion}"
            raise OptionError(f"{what}: uses activations; give inputs with --data (or --data synthetic)")
        if self.selection.max_loss is not None and not self.data.given:
            why = "what is lost is measured on held-out samples of yours; give inputs with --data, and labels if there are any"
            raise OptionError(f"--max-loss: requires --data: {why}")
        if self.selection.latency is not None and not self.checks.bench:
            raise OptionError("--latency: is measured, but --no-bench leaves measuring out; take one of them away")
        if self.unification.on and self.recovery.recover == "bias":
            raise OptionError(
                "--recover: got bias, which cannot fit blocks; choose auto, reconstruct, distill or none for unified weights"
            )
        if self.data.preprocess is not None and self.data.data is None and self.recovery.recover in ("none", "bias"):
            raise OptionError("--preprocess: requires --data, which is missing; give both")

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options from keywords, whatever group they belong to.

        Raises:
            OptionError: a value is out of range, or an option does not exist.

        >>> Options.of(ratio=0.5, recover="none").selection.ratio
        0.5
        """
        check_names(given, HOME)
        parts = {group: {k: v for k, v in given.items() if HOME[k] == group} for group in GROUPS}
        return cls(**{group: kind(**parts[group]) for group, kind in GROUPS.items()})

    @property
    def criterion(self) -> str:
        """The criterion, or the default if the user names none."""
        if self.selection.criterion is not None:
            return self.selection.criterion
        fits = self.recovery.recover in ("auto", "reconstruct", "distill")
        return WITH_DATA if self.data.given and fits else WITHOUT_DATA

    @property
    def calibrated(self) -> bool:
        """Whether channels are scored by their activations."""
        return self.criterion in CALIBRATED and self.selection.scores is None

    def seconds(self) -> float:
        """Time for all work on samples: that of one cut for each of several, if these are tried and no time is stated."""
        cuts = len(BRANCHES) + 1 if self.selection.depth and self.recovery.time_budget is None else 1
        return self.recovery.seconds() * cuts

    def asked(self) -> dict[str, Any]:
        """The options that decide the cut, for plans and reports."""
        selection = self.selection
        return {
            **({"ratio": selection.ratio} if selection.ratio is not None else {}),
            **{name: getattr(selection, name) for name in selection.targets()},
            **({"max_loss": selection.max_loss} if selection.max_loss is not None else {}),
            "criterion": "scores" if selection.scores is not None else self.criterion,
            "scope": selection.scope,
            **({"normalise": selection.normalise} if selection.normalise else {}),
            **({"widths": selection.widths} if selection.widths != "order" else {}),
            **({"layer_ratios": str(selection.layer_ratios)} if selection.layer_ratios is not None else {}),
            "align": selection.alignment().multiple,
            **({"profile": selection.profile.digest} if isinstance(selection.profile, Profile) else {}),
            **({"include": list(selection.include)} if selection.include else {}),
            **({"exclude": list(selection.exclude)} if selection.exclude else {}),
            **({"depth": True} if selection.depth else {}),
            "recover": self.recovery.recover,
            **({"rounds": self.recovery.rounds} if self.recovery.rounds > 1 else {}),
            **selection.policy().to_dict(),
            **self.unification.asked(),
        }


BRANCHES = (1, 2, 4, 8)
"""How many residual branches are left out in the cuts that `depth` tries, besides none."""
GROUPS: Mapping[str, Any] = MappingProxyType(
    {
        "selection": SelectionOptions,
        "data": DataOptions,
        "recovery": RecoveryOptions,
        "checks": CheckOptions,
        "unification": UnificationOptions,
    }
)
HOME: Mapping[str, str] = MappingProxyType({f.name: group for group, kind in GROUPS.items() for f in fields(kind)})
"""Option name -> its group."""


def check_names(given: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str]) -> None:
    """Reject arguments with unknown names.

    Raises:
        OptionError: a name is unknown; the message suggests the nearest one.
    """
    for name in given:
        if name not in known:
            raise OptionError(f"{name}: is not an option; {did_you_mean(name, known)}expected one of {', '.join(known)}")


def check_input_shape(shapes: Any) -> dict[str, tuple[int, ...]]:
    """Shapes as a mapping from input names to sizes; a size of 0 or less leaves a dimension open.

    Raises:
        OptionError: they are something else.
    """
    if not isinstance(shapes, Mapping):
        raise OptionError(f"--input-shape: got {_short(shapes)}, expected input name -> sizes such as (1, 3, 224, 224)")
    for name, shape in shapes.items():
        if not isinstance(name, str):
            raise OptionError(f"--input-shape: got {_short(name)} as the name of an input, expected text")
        sizes = list(shape) if isinstance(shape, Collection) else []
        if not sizes or not all(isinstance(n, Integral) and not isinstance(n, bool) and n < LARGEST for n in sizes):
            raise OptionError(f"--input-shape: got {_short(shape)} for {name!r}, expected sizes such as (1, 3, 224, 224)")
    return {name: tuple(int(n) for n in shape) for name, shape in shapes.items()}


def check_picture(path: Path | None) -> None:
    """Reject a picture that is not an SVG.

    Raises:
        OptionError: its name does not end in .svg.
    """
    if path is not None and path.suffix.lower() != ".svg":
        raise OptionError(f"--picture: got '{path}', expected a file name that ends in .svg")


SAID: Mapping[str, str] = MappingProxyType({"block_scope": "scope", "leave": "exclude"})
"""What `unify` calls its own options that have the same names as others of `prune`."""


def _check_types(group: Any) -> None:
    """Check that the value of every option in a group has a type of the option's annotation; NumPy's numbers become Python's.

    Raises:
        OptionError: it has another type.
    """
    for name, kinds in _kinds(type(group)).items():
        value = getattr(group, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(dict.fromkeys(KINDS[k] for k in kinds if k in KINDS))
            raise OptionError(f"--{SAID.get(name, name).replace('_', '-')}: got {_short(value)}, expected {expected}")
        if isinstance(value, np.generic):  # which no plan can hold
            object.__setattr__(group, name, value.item())


def _kinds(group: type) -> Mapping[str, tuple[Any, ...]]:
    """Option name -> the classes that its values may have."""
    return {name: tuple(_classes(hint)) for name, hint in get_type_hints(group).items()}


def _short(value: Any) -> str:
    """A value on one line of a message."""
    return " ".join(reprlib.repr(value).split())


def _classes(hint: Any) -> Iterator[Any]:
    """The classes that an annotation stands for; NumPy's numbers count as numbers, and anything with elements as a list."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _classes(part)
    else:
        kind = get_origin(hint) or hint
        while hasattr(kind, "__value__"):  # a `type` statement, as NumPy 2.5 declares NDArray
            kind = get_origin(kind.__value__) or kind.__value__
        yield from {int: (Integral,), float: (Real,), bool: (bool, np.bool_), Sequence: (Collection,)}.get(kind, (kind,))


def _check_choice(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise OptionError(f"{option}: got '{given}'; {did_you_mean(str(given), known)}expected one of {', '.join(known)}")
