# SPDX-License-Identifier: Apache-2.0
"""What calibration inputs tell of a network: the inputs and targets of its linear layers, gathered batch by batch."""
