# SPDX-License-Identifier: Apache-2.0
"""onnxprune: make trained ONNX networks smaller and faster by removing channels; the result is verified and measured.

The names in `__all__` are public. All modules are private: they may change with any release.

>>> import onnxprune
>>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.7, align="none", recover="none", bench=False)
>>> result.report.removed, result.report.prunable
(314, 448)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__ as __version__

if TYPE_CHECKING:
    from onnxprune.analysis.analyse import Analysis
    from onnxprune.api import analyze, apply_plan, profile, prune, search, sensitivity, unify, verify_files
    from onnxprune.cost.profile import Profile
    from onnxprune.errors import PruneError
    from onnxprune.pipeline.result import Result
    from onnxprune.pipeline.search import SearchResult
    from onnxprune.report.sensitivity import Sensitivity
    from onnxprune.report.values import Report
    from onnxprune.rewrite.plan import Plan

__all__ = [
    "Analysis",
    "Plan",
    "Profile",
    "PruneError",
    "Report",
    "Result",
    "SearchResult",
    "Sensitivity",
    "analyze",
    "apply_plan",
    "profile",
    "prune",
    "search",
    "sensitivity",
    "unify",
    "verify_files",
]
_HOMES = {
    "Analysis": "analysis.analyse",
    "Plan": "rewrite.plan",
    "Profile": "cost.profile",
    "PruneError": "errors",
    "Report": "report.values",
    "Result": "pipeline.result",
    "SearchResult": "pipeline.search",
    "Sensitivity": "report.sensitivity",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first access, so that importing the package is cheap."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
