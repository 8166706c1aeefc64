# SPDX-License-Identifier: Apache-2.0
"""What was requested, what was reached and what limited it: the values, and how they are shown."""
