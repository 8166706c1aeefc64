# SPDX-License-Identifier: Apache-2.0
"""Smaller storage for the same shapes: blocks of weights that share one magnitude, and how a file carries them."""
