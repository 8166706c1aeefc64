# SPDX-License-Identifier: Apache-2.0
"""The reproduction of CCPrune: its jobs, their results, and what runs one. Only `work` imports torch."""
