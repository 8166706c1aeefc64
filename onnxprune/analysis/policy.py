# SPDX-License-Identifier: Apache-2.0
"""What the user prefers where the analysis has several valid results. A plan stores it, because it decides what is tied."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import OptionError

AUTO, OUTER, INNER = "auto", "outer", "inner"
CARRIERS = (AUTO, OUTER, INNER)
WAY_OUT = " (--allow-renormalising allows it)"
"""Suffix of the reason of a pin that `Policy.allow_renormalising` would lift."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's preferences.

    Attributes:
        carrier: (pattern of weight names, their carrier if channels are split into two factors): "outer" is whole heads or
            whole groups, "inner" the size of every head or the members of every group, "auto" whatever keeps most channels
            separate. The last pattern that matches counts.
        allow_renormalising: if an operator mixes channels (a mean, a normalisation, a softmax), let the smaller graph work on
            those that are kept. Such a cut is smaller and faster, but it differs from the masked original.
    """

    carrier: tuple[tuple[str, str], ...] = ()
    allow_renormalising: bool = False

    def carries(self, weights: Collection[str]) -> str:
        """The preferred carrier of a split of channels that these weights own."""
        found = AUTO
        for pattern, word in self.carrier:
            if pattern == "*" or fnmatch.filter(weights, pattern):
                found = word
        return found

    @property
    def needs_names(self) -> bool:
        """Whether `carries` depends on the weights."""
        return any(pattern != "*" for pattern, _ in self.carrier)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the default, as plain values for a plan."""
        found: dict[str, Any] = {"carrier": [f"{p}={w}" for p, w in self.carrier]} if self.carrier else {}
        return found | ({"allow_renormalising": True} if self.allow_renormalising else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """The inverse of `to_dict`; raises ValueError for invalid data."""
        unknown = data.keys() - {"carrier", "allow_renormalising"}
        if unknown:
            raise ValueError(f"policy: unknown key '{min(unknown)}'; it may need a newer version")
        try:
            return cls(read_carrier(data.get("carrier", ())), bool(data.get("allow_renormalising", False)))
        except OptionError as e:
            raise ValueError(e.message) from e


DEFAULT = Policy()


def read_carrier(texts: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read `inner` or `GLOB=inner`, one or several.

    Raises:
        OptionError: the word after the pattern is not auto, outer or inner.

    >>> read_carrier(["outer", "blocks.0.*=inner"])
    (('*', 'outer'), ('blocks.0.*', 'inner'))
    """
    found = []
    for text in [texts] if isinstance(texts, str) else texts:
        pattern, equals, word = str(text).rpartition("=")
        if word not in CARRIERS or (equals and not pattern):
            raise OptionError(f"--carrier: got '{text}', expected {', '.join(CARRIERS)}, or a pattern of names: '*attn*=outer'")
        found.append((pattern or "*", word))
    return tuple(found)
