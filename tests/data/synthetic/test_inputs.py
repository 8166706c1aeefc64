# SPDX-License-Identifier: Apache-2.0
"""What the inputs of a model are: images, sounds, tokens, sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.data.synthetic.inputs import Constant, Signal, Tokens, normalised, read_inputs
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.errors import DataError
from tests.cases.text import model


def inputs(text: str, **shapes: tuple[int, ...]) -> Any:
    return read_inputs(model(text), shapes)


def test_an_input_is_recognised_by_its_shape_and_its_first_consumer() -> None:
    (image,) = inputs("g (float[N,3,20,30] x, float[4,3,3,3] w1) => (float[N,4,18,28] y) { y = Conv(x, w1) }")
    assert isinstance(image, Signal)
    assert (image.channel, image.sizes) == (0, (20, 30))
    assert (image.low, image.high) == normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (last,) = inputs("g (float[1,20,30,3] x) => (float[1,3,20,30] y) { y = Transpose <perm = [0,3,1,2]> (x) }")
    assert (last.channel, last.sizes, last.shape) == (2, (20, 30), (20, 30, 3))
    (sound,) = inputs("g (float[N,2,99] x, float[4,2,3] w1) => (float[N,4,97] y) { y = Conv(x, w1) }")
    assert (sound.channel, sound.sizes) == (0, (99,))
    (words,) = inputs("g (float[N,7,16] x, float[16,8] w1) => (float[N,7,8] y) { y = MatMul(x, w1) }")
    assert (words.channel, words.sizes) == (1, (7,))
    (film,) = inputs("g (float[N,3,4,9,9] x, float[4,3,1,1,1] w1) => (float[N,4,4,9,9] y) { y = Conv(x, w1) }")
    assert (film.channel, film.sizes) == (0, (4, 9, 9))
    (numbers,) = inputs("g (float[N,13] x, float[13,5] w1) => (float[N,5] y) { y = MatMul(x, w1) }")
    assert (numbers.channel, numbers.sizes, numbers.channels) == (None, (13,), 1)
    (digits,) = inputs("g (float[N,784] x, float[784,5] w1) => (float[N,5] y) { y = MatMul(x, w1) }")
    assert digits.sizes == (28, 28)
    for signal in (image, last, sound, words, film, numbers, digits):
        fed = signal.fed(np.stack([signal.make(np.random.default_rng(k), signal.at) for k in range(3)]))
        assert fed.shape == (3, *signal.shape)
        assert fed.dtype == np.float32


def test_the_first_operation_determines_the_value_range() -> None:
    text = "g (float[N,1,8,8] x) => (float[N,1,8,8] y) <float s = {%s}> { y = %s(x, s) }"
    assert [inputs(text % v)[0].high for v in (("255.0", "Div"), ("0.0039", "Mul"), ("0.286", "Sub"))] == [
        (255,),
        (255,),
        (1,),
    ]
    quantized = "g (float[N,1,8,8] x) => (uint8[N,1,8,8] y) <float s = {0.02}, uint8 z = {100}> { y = QuantizeLinear(x, s, z) }"
    (found,) = inputs(quantized)
    assert (found.low, found.high) == (pytest.approx((-2.0,)), pytest.approx((3.1,)))
    (pixels,) = inputs("g (uint8[N,3,8,8] x) => (float[N,3,8,8] y) { y = Cast <to = 1> (x) }")
    assert pixels.high == (255, 255, 255)
    fed = pixels.fed(np.stack([pixels.make(np.random.default_rng(k), pixels.at) for k in range(8)]))
    assert fed.dtype == np.uint8
    assert fed.max() > 100


BERT = """g (int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids, float[50,6] w1) => (float[N,T,6] y) {
    e = Gather(w1, input_ids)  m = Cast <to = 1> (attention_mask)  t = Cast <to = 1> (token_type_ids)  s = Add(m, t)
    u = Unsqueeze <axes = [2]> (s)  y = Mul(e, u) }"""


def test_tokens_are_valid_indices_and_masks_let_everything_through() -> None:
    net = model(BERT, opset=11)
    kinds = read_inputs(net, {"input_ids": (1, 9)})
    assert [type(kind) for kind in kinds] == [Tokens, Constant, Constant]
    data = synthesize(net, 40, shapes={"input_ids": (1, 9)})
    chunk = data.chunks[0]
    assert chunk["input_ids"].shape == (40, 9)
    assert 0 <= chunk["input_ids"].min() < chunk["input_ids"].max() < 50
    assert chunk["attention_mask"].all()
    assert not chunk["token_type_ids"].any()
    tokens = kinds[0]
    parents = [tokens.make(np.random.default_rng(k), tokens.at) for k in range(2)]
    child = tokens.child(np.random.default_rng(3), tokens.at, *parents)
    assert child.shape == (9,)
    assert 0 <= child.min() <= child.max() < 50


def test_size_and_scale_inputs_fit_the_image() -> None:
    text = """g (float[1,3,32,48] image, float[1,2] im_shape, float[1,2] scale_factor) => (float[1,3,32,48] y) {
        a = ReduceSum <keepdims = 0> (im_shape)  b = ReduceSum <keepdims = 0> (scale_factor)
        c = Add(a, b)  y = Mul(image, c) }"""
    chunk = synthesize(model(text), 3).chunks[0]
    assert chunk["im_shape"].tolist() == [[32, 48]] * 3
    assert chunk["scale_factor"].tolist() == [[1, 1]] * 3


def test_a_fixed_batch_is_filled_and_inputs_without_a_batch_axis_are_generated() -> None:
    fixed = model("g (float[4,3,8,8] x) => (float[4,3,8,8] y) { y = Relu(x) }")
    assert [len(b["x"]) for b in synthesize(fixed, 6).batches(64)] == [4, 4]
    none = model("g (float[5] x, float s) => (float[5] y) { y = Mul(x, s) }")
    data = synthesize(none, 3)
    assert len(data) == 3
    assert next(data.batches(1))["x"].shape == (5,)


def test_inputs_that_cannot_be_synthesized_are_refused() -> None:
    with pytest.raises(DataError, match="'x' has type object, which cannot be synthesized; use `data`"):
        synthesize(model("g (string[N] x) => (string[N] y) { y = Identity(x) }"), 2)
