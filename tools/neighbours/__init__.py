# SPDX-License-Identifier: Apache-2.0
"""What blocks of one magnitude are compared with: integer codes of more values, other choices of blocks; and measurements."""
