# SPDX-License-Identifier: Apache-2.0
"""Verification of a cut, and comparison of candidates with the original."""
