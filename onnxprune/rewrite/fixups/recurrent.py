# SPDX-License-Identifier: Apache-2.0
"""The number of hidden units of recurrent operators."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.rules.recurrent import GATES
from onnxprune.rewrite.patch import Fixup, Patch


def recurrent(patch: Patch) -> None:
    """LSTM, GRU, RNN: set the number of hidden units to the number kept."""
    kept = patch.mask(2, 2)
    if kept is not None:
        patch.set_attribute("hidden_size", int(kept.sum()))


FIXUPS: Mapping[str, Fixup] = dict.fromkeys(GATES, recurrent)
