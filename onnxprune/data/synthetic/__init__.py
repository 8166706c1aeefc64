# SPDX-License-Identifier: Apache-2.0
"""Inputs made up for a model: procedural signals, evolved until they cause the activations that BatchNorm remembers."""
