# SPDX-License-Identifier: Apache-2.0
"""Names of the criteria that need calibration inputs."""

CALIBRATED = ("obs", "subset_fidelity", "activation", "apoz", "thinet", "nisp", "hrank")
