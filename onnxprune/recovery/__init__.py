# SPDX-License-Identifier: Apache-2.0
"""Recovery of a cut model's accuracy by adjusting its weights, without labels or training code."""

METHODS = ("auto", "none", "bias", "reconstruct", "distill")
"""Values of --recover."""
