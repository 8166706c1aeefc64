# SPDX-License-Identifier: Apache-2.0
"""Verification of a cut, and how far a candidate is from the original."""
