# SPDX-License-Identifier: Apache-2.0
"""What the user asks for: every option of the command line as a checked value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.errors import OptionError
from onnxprune.recovery import METHODS
from onnxprune.selection.alignment import Alignment, auto_alignment
from onnxprune.selection.budget import Amount, amount
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.types import Array, Shapes

if TYPE_CHECKING:
    from onnxprune.data import Labels, Source
    from onnxprune.evaluation.evaluator import Metric

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; each field is an option of the command line.

    Attributes:
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1; None where a budget is given instead.
        criterion: a name in `selection.scoring.NAMES`; None: `obs` where there are inputs to recover with, else `ccprune`.
        scope: "global" or "local".
        align: "auto", "none", or a number of channels.
        scores: path of an .npz, or weight name -> scores, instead of the criterion.
        include, exclude: patterns of weight names that may, or may not, be cut.
        data: inputs, as `onnxprune.data.load_data` takes them: a path, `module:function`, `synthetic`, `random`, or arrays.
        input_shape: input name -> shape, for sizes that the file leaves open.
        recover: what is done to keep accuracy after the cut: a name in `onnxprune.recovery.METHODS`.
        rounds: in how many steps to cut, with a recovery after each.
        time_budget: how long training may take, as "10m" or in seconds; without it, `auto` does not train.
        verify, bench: whether to prove and to time the result.
        threads: threads of onnxruntime in the benchmark.
        seed: seed of the criterion `random`.
        carrier: what a split of channels carries, "outer" (whole heads, whole groups), "inner" (the size of every head, the
            members of every group) or "auto"; also by patterns of weight names, `["*attn*=outer"]`.
        preprocess: how images become inputs, as in `size=224x224,mean=0.5,std=0.5`.
        samples: how many samples to use at most.
        labels: one a sample, or a file of them.
        metric: what is better, as a function (see `onnxprune.evaluation.evaluator.Metric`) or as `module:function`.
        allow_renormalising: whether means, normalisations and softmax over channels may work on those that are left.
        macs: instead of `ratio`, the multiply-accumulates that may remain: "50%", "300M", or a number of them.
    """

    ratio: float | None = None
    criterion: str | None = None
    scope: str = "global"
    align: str | int = "auto"
    scores: str | Path | Mapping[str, Array] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    data: Source | None = None
    input_shape: Shapes = field(default_factory=dict)
    recover: str = "auto"
    verify: bool = True
    bench: bool = True
    threads: int = 1
    seed: int = 0
    macs: str | float | None = None
    carrier: str | Sequence[str] = ()
    preprocess: str | None = None
    samples: int | None = None
    labels: Labels | None = None
    metric: str | Metric | None = None
    allow_renormalising: bool = False
    rounds: int = 1
    time_budget: str | float | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        if (self.ratio is None) == (self.macs is None):
            given = "neither" if self.ratio is None else "both"
            raise OptionError(
                f"--ratio, --macs: got {given}, expected one of them: what goes (0.5) or what remains (50%, 300M)"
            )
        self.limit()
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise OptionError(
                f"--ratio: got {self.ratio:g}, expected 0 <= ratio < 1, the fraction of channels to remove (0.5 = half)"
            )
        if self.criterion is not None and self.criterion not in NAMES:
            near = difflib.get_close_matches(self.criterion, NAMES, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise OptionError(f"--criterion: got '{self.criterion}'; {hint}expected one of {', '.join(NAMES)}")
        if self.scope not in ("global", "local"):
            raise OptionError(f"--scope: got '{self.scope}', expected global or local")
        if self.recover not in METHODS:
            raise OptionError(f"--recover: got '{self.recover}', expected one of {', '.join(METHODS)}")
        self._check_inputs()
        if self.threads < 1:
            raise OptionError(f"--threads: got {self.threads}, expected at least 1")
        self.alignment()
        self.policy()

    def _check_inputs(self) -> None:
        """What is said about inputs and recovery hangs together."""
        if self.data is None:
            for name in ("preprocess", "samples", "labels", "metric"):
                if getattr(self, name) is not None:
                    raise OptionError(f"--{name}: says something about --data, which is missing; give both")
        if self.data is None and self.criterion in CALIBRATED and self.recover == "none":
            raise OptionError(
                f"--criterion {self.criterion}: looks at activations; give inputs with --data (or synthetic ones)"
            )
        if self.rounds < 1:
            raise OptionError(f"--rounds: got {self.rounds}, expected at least 1")
        if self.rounds > 1 and self.recover == "none":
            raise OptionError("--rounds: recovers after each round, and --recover none does not; choose reconstruct or auto")
        self.seconds()

    def seconds(self) -> float | None:
        """How long training may take; None where nobody said."""
        if self.time_budget is None:
            return None
        read = re.fullmatch(r"(\d+\.?\d*)\s*([smh]?)", str(self.time_budget).strip().lower())
        if not read or float(read[1]) <= 0:
            raise OptionError(f"--time-budget: got '{self.time_budget}', expected a time such as 90s, 10m or 1h")
        return float(read[1]) * SECONDS[read[2]]

    @property
    def chosen_criterion(self) -> str:
        """The criterion, also where the user leaves it to the program."""
        if self.criterion is not None:
            return self.criterion
        return "obs" if self.data is not None and self.recover in ("auto", "reconstruct", "distill") else "ccprune"

    def alignment(self) -> Alignment:
        """The multiple that widths are rounded to."""
        text = str(self.align).lower()
        if text == "auto":
            return auto_alignment()
        if text == "none":
            return Alignment(1, "not asked for")
        if text.isdigit() and int(text) > 0:
            return Alignment(int(text), "as asked")
        raise OptionError(f"--align: got '{self.align}', expected auto, none, or a number of channels such as 8")

    def policy(self) -> Policy:
        """What is wished of the analysis."""
        return Policy(read_carrier(self.carrier), self.allow_renormalising)

    def limit(self) -> Amount | None:
        """The multiply-accumulates that may remain; None where the ratio decides."""
        return None if self.macs is None else amount(self.macs, "--macs")

    def asked(self) -> dict[str, Any]:
        """The options that decide the cut, for plans and reports."""
        by = "scores" if self.scores is not None else self.chosen_criterion
        return {
            **({"ratio": self.ratio} if self.macs is None else {"macs": self.macs}),
            "criterion": by,
            "scope": self.scope,
            "align": self.alignment().multiple,
            "recover": self.recover,
            **({"rounds": self.rounds} if self.rounds > 1 else {}),
            **self.policy().to_dict(),
        }
