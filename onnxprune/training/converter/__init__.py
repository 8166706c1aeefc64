# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as a PyTorch module."""
