# SPDX-License-Identifier: Apache-2.0
"""Training of a pruned network to follow the original."""
