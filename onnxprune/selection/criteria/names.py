# SPDX-License-Identifier: Apache-2.0
"""Names of criteria that need calibration inputs; importable without the code that computes them."""

CALIBRATED = ("obs", "subset_fidelity", "activation", "apoz")
