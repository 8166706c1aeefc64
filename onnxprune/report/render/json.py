# SPDX-License-Identifier: Apache-2.0
"""Reports and other results as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.report.values import Report


def to_json(value: Any) -> str:
    """A report, a dataclass, or plain values as indented JSON."""
    plain = value.to_dict() if isinstance(value, Report) else asdict(value) if is_dataclass(value) else value  # type: ignore[arg-type]
    return json.dumps(plain, indent=1, default=_plain)


def benchmark_values(result: Benchmark, names: list[str]) -> dict[str, Any]:
    """One entry per model, and what they have in common."""
    models = [
        {"model": name, **asdict(latency), "speedup": ratio}
        for name, latency, ratio in zip(names, result.latencies, result.speedup, strict=True)
    ]
    return {"models": models, "threads": result.threads, "provider": result.provider, "inputs": result.inputs}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
