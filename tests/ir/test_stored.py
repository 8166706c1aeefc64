# SPDX-License-Identifier: Apache-2.0
"""What nothing reads may be as odd as it likes: runtimes drop it unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, TensorProto, helper

from onnxprune.errors import ModelError
from onnxprune.ir.files import load
from tests.cases.nets import pruned, small, write


def stored(**fields: Any) -> TensorProto:
    return TensorProto(name="odd", **fields)


def elsewhere() -> TensorProto:
    found = stored(dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    found.external_data.add(key="location", value="gone.bin")
    return found


ODD = {
    "2000 axes": stored(dims=[1] * 2000, data_type=TensorProto.FLOAT, raw_data=bytes(4)),
    "2^62 elements, none there": stored(dims=[2**31, 2**31], data_type=TensorProto.FLOAT),
    "2^62 elements, two there": stored(dims=[2**31, 2**31], data_type=TensorProto.FLOAT, raw_data=bytes(8)),
    "too few values": stored(dims=[4], data_type=TensorProto.FLOAT, float_data=[1.0, 2.0]),
    "values in another field": stored(dims=[4], data_type=TensorProto.FLOAT, int32_data=[1, 2, 3, 4]),
    "text that is none": stored(dims=[1], data_type=TensorProto.STRING, string_data=[b"\xff\xfe"]),
    "a file that is not there": elsewhere(),
}


def with_odd(tensor: TensorProto) -> ModelProto:
    net = small()
    net.graph.initializer.append(tensor)
    return net


@pytest.mark.parametrize("tensor", ODD.values(), ids=ODD)
def test_an_odd_weight_that_no_node_reads_is_left_out_with_a_warning(tensor: TensorProto, tmp_path: Path) -> None:
    plain = pruned(small(), 0.5)
    net = with_odd(tensor)
    before = net.SerializeToString()
    for given in (net, write(tmp_path, net)):
        found = pruned(given, 0.5)
        assert found.plan.kept == plain.plan.kept
        assert [t.name for t in found.model.graph.initializer] == [t.name for t in plain.model.graph.initializer]
        assert any("weights that no node reads" in line and "'odd'" in line for line in found.report.warnings)
    assert net.SerializeToString() == before


@pytest.mark.parametrize("tensor", ODD.values(), ids=ODD)
def test_an_odd_weight_that_a_node_reads_is_refused(tensor: TensorProto, tmp_path: Path) -> None:
    net = with_odd(tensor)
    net.graph.node.append(helper.make_node("Shape", ["odd"], ["size"]))
    with pytest.raises(ModelError, match="weight 'odd'") as e:
        load(write(tmp_path, net))
    assert "\n" not in str(e.value)


def test_what_can_be_read_stays() -> None:
    net = with_odd(stored(dims=[2], data_type=TensorProto.FLOAT, float_data=[1.0, 2.0]))
    assert load(net).model.graph.initializer[-1].name == "odd"
    assert not load(net).warnings
