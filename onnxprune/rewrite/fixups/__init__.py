# SPDX-License-Identifier: Apache-2.0
"""What a cut changes in a node: attributes, sizes, statistics."""
