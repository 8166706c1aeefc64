# SPDX-License-Identifier: Apache-2.0
"""What the user asks for, as checked values: five groups of options, of the same names in Python and on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.data.load import Labels, Source
from onnxprune.data.preprocess import settings_of
from onnxprune.errors import OptionError, did_you_mean
from onnxprune.evaluation.evaluator import Metric
from onnxprune.recovery import METHODS
from onnxprune.selection.alignment import Alignment, auto_alignment
from onnxprune.selection.budget import Amount, amount
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.types import Array, Shapes

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
SCOPES = ("global", "local")


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which channels are dropped.

    Attributes:
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1; None where a limit is given instead.
        macs: instead of `ratio`, the multiply-accumulates that may remain: "50%", "300M", or a number of them.
        criterion: a name in `selection.criteria.NAMES`; None: `obs` where there are inputs to recover with, else `ccprune`.
        scores: path of an .npz, or weight name -> scores, instead of the criterion.
        scope: "global" or "local".
        align: "auto", "none", or a number of channels.
        include, exclude: patterns of weight names that may, or may not, be cut.
        carrier: what a split of channels carries, "outer" (whole heads, whole groups), "inner" (the size of every head, the
            members of every group) or "auto"; also by patterns of weight names, `["*attn*=outer"]`.
        allow_renormalising: whether means, normalisations and softmax over channels may work on the channels that are kept.
    """

    ratio: float | None = None
    macs: str | float | None = None
    criterion: str | None = None
    scores: str | Path | Mapping[str, Array] | None = None
    scope: str = "global"
    align: str | int = "auto"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    carrier: str | Sequence[str] = ()
    allow_renormalising: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        if (self.ratio is None) == (self.macs is None):
            given = "neither" if self.ratio is None else "both"
            raise OptionError(
                f"--ratio, --macs: got {given}, expected one of them: what is removed (0.5) or what remains (50%, 300M)"
            )
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise OptionError(
                f"--ratio: got {self.ratio:g}, expected 0 <= ratio < 1, the fraction of channels to remove (0.5 = half)"
            )
        _check_choice("--scope", self.scope, SCOPES)
        if self.criterion is not None:
            _check_choice("--criterion", self.criterion, NAMES)
        self.limit()
        self.alignment()
        self.policy()

    def alignment(self) -> Alignment:
        """The multiple that widths are rounded to."""
        text = str(self.align).lower()
        if text == "auto":
            return auto_alignment()
        if text == "none":
            return Alignment(1, "not asked for")
        if text.isdecimal() and int(text) > 0:
            return Alignment(int(text), "as asked")
        raise OptionError(f"--align: got '{self.align}', expected auto, none, or a number of channels such as 8")

    def policy(self) -> Policy:
        """What is wished of the analysis."""
        return Policy(read_carrier(self.carrier), self.allow_renormalising)

    def limit(self) -> Amount | None:
        """What may remain of the multiply-accumulates; None where the ratio decides."""
        return None if self.macs is None else amount(self.macs, "--macs")


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Typical inputs, and what is right for them.

    Attributes:
        data: inputs, as `load_data` takes them: a path, `module:function`, `synthetic`, `random`, or arrays.
        preprocess: how images become inputs, as in `size=224x224,mean=0.5,std=0.5`.
        samples: how many samples to use at most.
        labels: one per sample, or a file of them.
        metric: what is better, as a function (see `evaluation.evaluator.Metric`) or as `module:function`.
        input_shape: input name -> shape, for sizes that the file leaves open.
        seed: of whatever is chosen at random.
    """

    data: Source | None = None
    preprocess: str | None = None
    samples: int | None = None
    labels: Labels | None = None
    metric: str | Metric | None = None
    input_shape: Shapes = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range, or says something about inputs that are not given."""
        for name in ("preprocess", "samples", "labels", "metric"):
            if self.data is None and getattr(self, name) is not None:
                raise OptionError(f"--{name}: says something about --data, which is missing; give both")
        settings_of(self.preprocess or "")
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"--samples: got {self.samples}, expected at least 1")
        if self.seed < 0:
            raise OptionError(f"--seed: got {self.seed}, expected 0 or more")

    @property
    def source(self) -> str:
        """What the inputs are called in reports."""
        return str(self.data) if isinstance(self.data, str | Path) else "the given arrays"


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What is done to keep accuracy.

    Attributes:
        recover: what is done after the cut: a name in `recovery.METHODS`.
        rounds: in how many steps to cut, with a recovery after each.
        time_budget: how long training may take, as "10m" or in seconds; without it, `auto` does not train.
    """

    recover: str = "auto"
    rounds: int = 1
    time_budget: str | float | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check_choice("--recover", self.recover, METHODS)
        if self.rounds < 1:
            raise OptionError(f"--rounds: got {self.rounds}, expected at least 1")
        if self.rounds > 1 and self.recover == "none":
            raise OptionError("--rounds: recovers after each round, and --recover none does not; choose reconstruct or auto")
        self.seconds()

    def seconds(self) -> float | None:
        """How long training may take; None where nobody said."""
        if self.time_budget is None:
            return None
        read = re.fullmatch(r"([0-9]+\.?[0-9]*)\s*([smh]?)", str(self.time_budget).strip().lower())
        if not read or float(read[1]) <= 0:
            raise OptionError(f"--time-budget: got '{self.time_budget}', expected a time such as 90s, 10m or 1h")
        return float(read[1]) * SECONDS[read[2]]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What is done to trust the result.

    Attributes:
        verify: whether to compare the result with the original with those channels zeroed.
        bench: whether to time both.
        threads: threads of onnxruntime in the benchmark.
    """

    verify: bool = True
    bench: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.threads < 1:
            raise OptionError(f"--threads: got {self.threads}, expected at least 1")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results go.

    Attributes:
        output: the pruned model.
        plan: which positions of which weights it keeps; None: not written.
        force: whether files that exist are replaced.
    """

    output: Path
    plan: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse one name for two files."""
        if self.output == self.plan:
            raise OptionError(f"{self.output}: is named for both the model and the plan; choose two names")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for in one pruning; where its files go is asked separately (`OutputOptions`).

    Attributes:
        selection: which channels are dropped.
        data: typical inputs, and what is right for them.
        recovery: what is done to keep accuracy.
        checks: what is done to trust the result.
    """

    selection: SelectionOptions
    data: DataOptions = field(default_factory=DataOptions)
    recovery: RecoveryOptions = field(default_factory=RecoveryOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        needs = self.selection.criterion in CALIBRATED and self.selection.scores is None
        if needs and self.data.data is None and self.recovery.recover == "none":
            what = f"--criterion {self.selection.criterion}"
            raise OptionError(f"{what}: looks at activations; give inputs with --data (or synthetic ones)")

    @classmethod
    def of(cls, **given: Any) -> Options:
        """The options of these names, whatever group they are in.

        Raises:
            OptionError: a value is out of range, or there is no option of that name.

        >>> Options.of(ratio=0.5, recover="none").selection.ratio
        0.5
        """
        check_names(given, HOME)
        parts = {group: {k: v for k, v in given.items() if HOME[k] == group} for group in GROUPS}
        return cls(**{group: kind(**parts[group]) for group, kind in GROUPS.items()})

    @property
    def criterion(self) -> str:
        """The criterion, also where the user leaves it to the program."""
        if self.selection.criterion is not None:
            return self.selection.criterion
        return (
            "obs" if self.data.data is not None and self.recovery.recover in ("auto", "reconstruct", "distill") else "ccprune"
        )

    @property
    def calibrated(self) -> bool:
        """Whether channels are scored by their activations."""
        return self.criterion in CALIBRATED and self.selection.scores is None

    def asked(self) -> dict[str, Any]:
        """The options that decide the cut, for plans and reports."""
        wish = self.selection
        return {
            **({"ratio": wish.ratio} if wish.macs is None else {"macs": wish.macs}),
            "criterion": "scores" if wish.scores is not None else self.criterion,
            "scope": wish.scope,
            "align": wish.alignment().multiple,
            "recover": self.recovery.recover,
            **({"rounds": self.recovery.rounds} if self.recovery.rounds > 1 else {}),
            **wish.policy().to_dict(),
        }


GROUPS: Mapping[str, Any] = MappingProxyType(
    {"selection": SelectionOptions, "data": DataOptions, "recovery": RecoveryOptions, "checks": CheckOptions}
)
HOME: Mapping[str, str] = MappingProxyType({f.name: group for group, kind in GROUPS.items() for f in fields(kind)})
"""Name of an option -> its group."""


def check_names(given: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse arguments of unknown names.

    Raises:
        OptionError: with the nearest name.
    """
    for name in given:
        if name not in known:
            raise OptionError(f"{name}: is not an option; {did_you_mean(name, known)}expected one of {', '.join(known)}")


def _check_choice(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise OptionError(f"{option}: got '{given}'; {did_you_mean(str(given), known)}expected one of {', '.join(known)}")
