# SPDX-License-Identifier: Apache-2.0
"""Selects which channels are kept, from scores and a budget."""
