# SPDX-License-Identifier: Apache-2.0
"""The stages of one pruning, in order."""
