# SPDX-License-Identifier: Apache-2.0
"""What a report says: the only place that knows how the program's JSON is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Said:
    """What a report says about a cut.

    Attributes:
        kept: the recovery method that was kept.
        macs: fraction of the multiply-accumulates that remains.
        source: what the figures were measured on.
        claims: the report's figures of the kept method, by name.
        unknown: the sentence that says that the accuracy is unknown; empty if there is none.
        warnings: the report's warnings.
    """

    kept: str
    macs: float
    source: str = ""
    claims: Mapping[str, float] = field(default_factory=dict)
    unknown: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One cell of a table."""
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self.claims.items())
        return f"{self.kept}: {figures or 'accuracy unknown' * bool(self.unknown)}" + " (!)" * bool(self.warnings)


FIGURES = ("lost", "error", "cosine", "agreement")


def said(report: Mapping[str, Any]) -> Said:
    """Read a report in JSON."""
    recovery = report.get("recovery") or {}
    kept = recovery.get("method", "none")
    judged = next((a["judgement"] for a in recovery.get("attempts", ()) if a["name"] == kept), None) or {}
    claims = {name: float(judged[name]) for name in FIGURES if isinstance(judged.get(name), int | float)}
    return Said(
        kept,
        float(report["macs"]["kept"]),
        recovery.get("source", ""),
        claims,
        report.get("unknown", ""),
        tuple(report.get("warnings", ())),
    )
