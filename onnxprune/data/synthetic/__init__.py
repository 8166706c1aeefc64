# SPDX-License-Identifier: Apache-2.0
"""Inputs made up for a model: procedural signals, bred until they cause the activations that BatchNorm remembers."""

from onnxprune.data.synthetic.statistics import Fit, LayerFit, fit, misfit
from onnxprune.data.synthetic.synthesize import synthesize

__all__ = ["Fit", "LayerFit", "fit", "misfit", "synthesize"]
