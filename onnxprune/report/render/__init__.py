# SPDX-License-Identifier: Apache-2.0
"""One output format per file: `table` for people, `json` for machines. Both show the same figures."""
