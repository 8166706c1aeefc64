# SPDX-License-Identifier: Apache-2.0
"""Statistics of calibration inputs: the inputs and targets of linear layers, accumulated batch by batch."""
