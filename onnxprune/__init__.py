# SPDX-License-Identifier: Apache-2.0
"""onnxprune: make trained ONNX networks smaller and faster by removing channels, proven equal and measured.

>>> import onnxprune
>>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.7, align="none", recover="none", bench=False)
>>> result.report.removed, result.report.prunable
(314, 448)
"""

from onnxprune.api import Result, analyze, apply_plan, prune, verify_files
from onnxprune.errors import PruneError
from onnxprune.options import Options
from onnxprune.pipeline.decide import Analysis
from onnxprune.report.values import Report
from onnxprune.rewrite.plan import Plan

__all__ = ["Analysis", "Options", "Plan", "PruneError", "Report", "Result", "analyze", "apply_plan", "prune", "verify_files"]
__version__ = "0.1.0"
