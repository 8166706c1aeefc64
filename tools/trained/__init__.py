# SPDX-License-Identifier: Apache-2.0
"""Trained networks with real inputs and a real metric: what they are, what they are trained on, and how they are judged.

`registry` lists them; only `networks` and `training` import torch.
"""
