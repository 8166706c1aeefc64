# SPDX-License-Identifier: Apache-2.0
"""Synthetic inputs for a model: procedural signals, evolved to reproduce the activation statistics that BatchNorm stores."""
