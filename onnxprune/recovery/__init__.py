# SPDX-License-Identifier: Apache-2.0
"""What is done to the weights of a cut model so that it keeps its accuracy, without labels or training code."""

METHODS = ("auto", "none", "bias", "reconstruct", "distill")
"""Values of --recover."""
