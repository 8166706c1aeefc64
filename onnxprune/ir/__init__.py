# SPDX-License-Identifier: Apache-2.0
"""What is in the file: nodes, weights, shapes, values, and how files are read and written."""
