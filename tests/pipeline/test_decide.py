# SPDX-License-Identifier: Apache-2.0
"""Cuts that a node rejects."""

from __future__ import annotations

import re
from typing import Any

import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.errors import CutError, PruneError
from onnxprune.ir.facts import read_graph
from onnxprune.options import Options
from onnxprune.pipeline import decide as module
from onnxprune.pipeline.decide import MAX_REFUSALS, decide
from tests.cases.nets import small


def test_cuts_that_are_rejected_for_ever_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in a fix-up: the node rejects every cut, even if all its channels are kept."""
    attempts: list[int] = []

    def rejects(*_: Any) -> None:
        attempts.append(0)
        raise CutError("Conv 'c1' is left with 5 channels", 0)

    monkeypatch.setattr(module, "cut", rejects)
    why = "net: could not be cut in 30 attempts; the last one failed because a node cannot follow a cut (Conv 'c1' is left"
    with pytest.raises(PruneError, match=re.escape(why)):
        decide(analyse(read_graph(small())), Options.of(ratio=0.5), "net")
    assert len(attempts) == MAX_REFUSALS
