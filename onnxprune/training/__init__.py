# SPDX-License-Identifier: Apache-2.0
"""Recovery by gradient descent: an ONNX graph as a PyTorch module, and distillation. The only package that imports torch.

Raises:
    TrainingError: on import, if torch is not installed.
"""

from __future__ import annotations

from onnxprune.errors import TrainingError

try:
    import torch  # noqa: F401
except ImportError as e:
    raise TrainingError("training needs PyTorch, which is not installed: pip install 'onnxprune[torch]'") from e
