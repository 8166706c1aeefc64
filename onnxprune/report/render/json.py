# SPDX-License-Identifier: Apache-2.0
"""Reports and other results as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from typing import Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.report.values import Report
from onnxprune.version import __version__


def to_json(value: Any, kind: str = "report") -> str:
    """A report, a dataclass, or plain values as indented JSON that states its format, and null for what is not finite.

    Args:
        kind: what it is; the format is `onnxprune-KIND/1`, whose number grows when a field changes its meaning or goes.

    >>> json.loads(to_json({"error": float("nan"), "version": ""}, "test"))
    {'format': 'onnxprune-test/1', 'version': '', 'error': None}
    """
    plain = value.to_dict() if isinstance(value, Report) else asdict(value) if is_dataclass(value) else value  # type: ignore[arg-type]
    found = {"format": f"onnxprune-{kind}/1", "version": __version__, **plain}
    return json.dumps(_finite(json.loads(json.dumps(found, default=_plain))), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def benchmark_values(result: Benchmark, names: list[str]) -> dict[str, Any]:
    """One entry per model, and what they have in common."""
    models = [
        {"model": name, **asdict(latency), "speedup": ratio}
        for name, latency, ratio in zip(names, result.latencies, result.speedup, strict=True)
    ]
    return {"models": models, "threads": result.threads, "provider": result.provider, "inputs": result.inputs}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
