# SPDX-License-Identifier: Apache-2.0
"""Networks of the shapes that networks really have, written in the ways in which files write them."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.types import joined
from tests.cases.topologies import convolutional, sequences, writing
from tests.cases.topologies.net import Net

NETS: Mapping[str, Net] = joined(convolutional.NETS, sequences.NETS, writing.NETS)
