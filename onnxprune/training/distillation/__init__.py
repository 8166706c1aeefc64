# SPDX-License-Identifier: Apache-2.0
"""A pruned network is trained to follow the original."""
