# SPDX-License-Identifier: Apache-2.0
"""Networks with the structures of real ones, in the forms in which exporters write them."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.types import joined
from tests.cases.topologies import bodies, convolutional, sequences, writing
from tests.cases.topologies.net import Net

NETS: Mapping[str, Net] = joined(convolutional.NETS, sequences.NETS, writing.NETS, bodies.NETS)
