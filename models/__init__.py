# SPDX-License-Identifier: Apache-2.0
"""Networks, data sets and a training loop, for the scripts of this project; not a part of the package."""
