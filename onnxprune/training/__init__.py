# SPDX-License-Identifier: Apache-2.0
"""The PyTorch side: sparsity for any training loop, export, plans applied to modules, and rounds of cutting and retraining.

Beside these, an ONNX graph as a PyTorch module, and distillation without the model's code. The only package that imports torch.

Raises:
    TrainingError: on import, if torch is not installed.
"""

from __future__ import annotations

from onnxprune.errors import TrainingError

try:
    import torch  # noqa: F401
except ImportError as e:
    raise TrainingError("training needs PyTorch, which is not installed: pip install 'onnxprune[torch]'") from e

from onnxprune.training.channels import ChannelGroup, channel_groups
from onnxprune.training.compact import load_compact, save_compact
from onnxprune.training.distillation.teacher import Distillation
from onnxprune.training.export import export, exported
from onnxprune.training.loop import Iterated, Retraining, iterate
from onnxprune.training.plans import apply_plan
from onnxprune.training.rounds import Round

__all__ = [
    "ChannelGroup",
    "Distillation",
    "Iterated",
    "Retraining",
    "Round",
    "apply_plan",
    "channel_groups",
    "export",
    "exported",
    "iterate",
    "load_compact",
    "save_compact",
]
