# SPDX-License-Identifier: Apache-2.0
"""From channels that are dropped to a smaller model, and the plan that says which."""
