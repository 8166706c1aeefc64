# SPDX-License-Identifier: Apache-2.0
"""Damaged and odd inputs.

Models are made by `seeds`, `fields`, `structure` and `mutation`; other files by `texts`, `arrays`, `pictures`; command lines by
`words`. `child` and `running` run them, `outcome` judges what came of it.
"""
