# SPDX-License-Identifier: Apache-2.0
"""Turns dropped channels into a smaller model, and stores the choice as a plan."""
