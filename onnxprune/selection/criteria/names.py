# SPDX-License-Identifier: Apache-2.0
"""Names of criteria that need calibration inputs, known without loading what computes them."""

CALIBRATED = ("obs", "subset_fidelity", "activation", "apoz")
