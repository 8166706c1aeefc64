# SPDX-License-Identifier: Apache-2.0
"""Which channels belong together: labels on every position of every axis, and the rules that tie them."""
