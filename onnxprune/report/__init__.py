# SPDX-License-Identifier: Apache-2.0
"""What was asked, what was reached, and what held it back: values, and how they are shown."""
