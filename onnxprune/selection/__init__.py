# SPDX-License-Identifier: Apache-2.0
"""Scores and a budget: which channels are kept."""
