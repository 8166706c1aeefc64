# SPDX-License-Identifier: Apache-2.0
"""The model file: its nodes, weights, shapes and values, and how files are read and written."""
