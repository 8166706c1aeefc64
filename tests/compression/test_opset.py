# SPDX-License-Identifier: Apache-2.0
"""A model in a newer version of ONNX is the same model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.compression.opset import converted
from onnxprune.ir.graph import opsets
from tests.cases.nets import small
from tests.cases.running import random_feeds, runner
from tests.cases.text import model


def described() -> ModelProto:
    """A model that says much about itself."""
    net = small()
    net.producer_name, net.producer_version, net.domain, net.model_version = "mine", "1.2", "org.mine", 7
    net.doc_string, net.graph.doc_string = "all about it", "its graph"
    onnx.helper.set_model_props(net, {"classes": "a,b,c", "stride": "32"})
    return net


def test_what_a_model_says_about_itself_stays() -> None:
    net = described()
    found = converted(net, 21)
    assert found is not None
    assert opsets(found)[""] == 21
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(found, name) == getattr(net, name)
    assert {p.key: p.value for p in found.metadata_props} == {"classes": "a,b,c", "stride": "32"}
    assert found.graph.name == net.graph.name
    onnx.checker.check_model(found, full_check=True)


def test_inputs_outputs_and_weights_stay_and_the_outputs_are_the_same() -> None:
    net = described()
    found = converted(net, 21)
    assert found is not None
    assert [*found.graph.input] == [*net.graph.input]
    assert [*found.graph.output] == [*net.graph.output]
    before, after = ({t.name: onnx.numpy_helper.to_array(t).tobytes() for t in m.graph.initializer} for m in (net, found))
    assert before == after
    feeds = random_feeds(net, np.random.default_rng(0), 3)
    np.testing.assert_array_equal(runner(found)(feeds)[0], runner(net)(feeds)[0])


@pytest.mark.parametrize("opset", [0, 9, 17])
def test_a_model_that_is_new_enough_is_not_touched(opset: int) -> None:
    net = small()
    assert converted(net, opset) is net


def test_the_original_is_not_changed() -> None:
    net = described()
    before = net.SerializeToString(deterministic=True)
    converted(net, 21)
    assert net.SerializeToString(deterministic=True) == before


def test_a_model_that_onnx_cannot_convert_gives_none() -> None:
    net = small()
    net.graph.node[0].op_type = "ImageScaler"  # onnxruntime has it, ONNX has not
    assert converted(net, 21) is None


def test_operators_of_other_domains_stay() -> None:
    net = model("g (float[N,8] x, float[8,8] w1) => (float[N,8] y) { a = MatMul(x, w1)  y = com.microsoft.Gelu(a) }")
    found = converted(net, 21)
    assert found is not None
    assert opsets(found) == {"": 21, "com.microsoft": 1}
    feeds = random_feeds(net, np.random.default_rng(0), 3)
    np.testing.assert_array_equal(runner(found)(feeds)[0], runner(net)(feeds)[0])


def test_models_that_differ_in_their_weights_alone_get_the_same_names() -> None:
    # the converter stores the axes of a Squeeze under a name that depends on all others
    text = "g (float[1,N,1] x, float[1,4,1] w1) => (float[M] y) { a = Add(x, w1)  y = Squeeze<axes = [0, 2]>(a) }"
    net, other = model(text, opset=11), model(text, opset=11)
    other.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "w_refit"))
    found, again = converted(net, 21), converted(other, 21)
    assert found is not None and again is not None
    assert [*found.graph.node] == [*again.graph.node]
    assert "opset_0" in {name for node in found.graph.node for name in node.input}
