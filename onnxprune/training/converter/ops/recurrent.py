# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN with their default activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onnxprune.training.converter.call import Call, Op

# PyTorch's order of ONNX's gates: input, forget, cell, output for "iofc"; reset, update, new for "zrh"
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
UNUSUAL = ("activations", "activation_alpha", "activation_beta", "clip", "input_forget", "layout")


def recurrent(call: Call, x: Tensor, w: Tensor, r: Tensor, *more: Tensor | None) -> Any:
    """One layer in one or both directions: (sequence, last state, last cell)."""
    bias, lengths, h, c, peepholes = (*more, *[None] * 5)[:5]
    if lengths is not None or peepholes is not None or any(call.attribute(name) for name in UNUSUAL):
        return NotImplemented
    directions, hidden = w.shape[0], r.shape[2]
    h = torch.zeros(directions, x.shape[1], hidden, dtype=x.dtype, device=x.device) if h is None else h
    c = torch.zeros_like(h) if c is None else c
    bias = torch.zeros(directions, 2 * w.shape[1], dtype=x.dtype, device=x.device) if bias is None else bias
    backward = call.text("direction", "forward") == "reverse"
    x = x.flip(0) if backward else x
    if call.op == "GRU" and not call.attribute("linear_before_reset", 0):
        y, states = _gru(x, w, r, bias, h)
    else:
        y, states = _native(call.op, x, w, r, bias, h, c)
    return (y.flip(0) if backward else y, *states)


def _native(op: str, x: Tensor, w: Tensor, r: Tensor, bias: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    directions, hidden = w.shape[0], r.shape[2]
    parameters = []
    for k in range(directions):
        for p in (w[k], r[k], *bias[k].chunk(2)):
            gates = p.reshape(len(ORDER[op]), hidden, -1)[list(ORDER[op])]
            parameters.append(gates.reshape(p.shape))
    run: Any = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[op]
    state: Any = (h, c) if op == "LSTM" else h
    y, *states = run(x, state, parameters, True, 1, 0.0, False, directions == 2, False)
    return y.reshape(*y.shape[:2], directions, hidden).transpose(1, 2), tuple(states)


def _gru(x: Tensor, w: Tensor, r: Tensor, bias: Tensor, h: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The reset gate is applied to the state before the matrix product: ONNX's default, which PyTorch lacks."""
    sequences, last, sizes = [], [], [2 * r.shape[2], r.shape[2]]
    for k in range(w.shape[0]):
        b_w, b_r = bias[k].chunk(2)
        inputs = (x.flip(0) if k else x) @ w[k].t() + b_w
        (r_zr, r_h), (b_zr, b_h) = torch.split(r[k], sizes), torch.split(b_r, sizes)
        state, states = h[k], []
        for step in inputs:
            zr, new = torch.split(step, sizes, -1)
            z, reset = torch.sigmoid(zr + state @ r_zr.t() + b_zr).chunk(2, -1)
            state = (1 - z) * torch.tanh(new + (reset * state) @ r_h.t() + b_h) + z * state
            states.append(state)
        sequence = torch.stack(states)
        sequences.append(sequence.flip(0) if k else sequence)
        last.append(state)
    return torch.stack(sequences, 1), (torch.stack(last),)


OPS: Mapping[str, Op] = dict.fromkeys(ORDER, recurrent)
