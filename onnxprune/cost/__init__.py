# SPDX-License-Identifier: Apache-2.0
"""What a model costs: multiply-accumulates, parameters, bytes, measured latency."""
