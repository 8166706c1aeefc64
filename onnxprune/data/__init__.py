# SPDX-License-Identifier: Apache-2.0
"""Samples of model inputs, given by the user or synthetic: to fit weights on and to evaluate results."""
