# SPDX-License-Identifier: Apache-2.0
"""The cost of a model: multiply-accumulates, parameters, bytes, measured latency."""
