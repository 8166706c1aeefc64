# SPDX-License-Identifier: Apache-2.0
"""A mutant: a seed with one to three mutations, always the same for the same name."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from fuzzing import fields, structure
from fuzzing.blobs import damaged
from fuzzing.cases import Case
from fuzzing.fields import Subject
from fuzzing.seeds import generator

WEIGHTS: dict[Callable[[Random, Subject], str], int] = {
    fields.data_type: 2,
    fields.dims: 4,
    fields.contents: 2,
    fields.numbers: 12,
    fields.external: 4,
    fields.stored: 5,
    fields.attribute: 12,
    fields.stated: 6,
    fields.opsets: 3,
    structure.inputs: 7,
    structure.outputs: 4,
    structure.operator: 5,
    structure.order: 7,
    structure.renamed: 6,
    structure.labels: 4,
    structure.ends: 4,
    structure.shared: 3,
    structure.functions: 3,
    structure.nested: 3,
}
"""Every mutation of a model, and how often it is drawn."""
BYTES = 0.12
"""The share of mutants whose bytes are changed, whatever they mean."""
DEEP = 0.05
"""The share of these that are nested deeper than any parser goes."""
RATIO = ("--ratio", "0.5", "--no-bench", "--time-budget", "5s")
PLAIN = ("--recover", "none")
COMMANDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (40, ("M", *RATIO)),
    (18, ("M", *RATIO, *PLAIN)),
    (8, ("M", "--ratio", "0.5", "--no-bench", "--scope", "local", "--align", "none", "--criterion", "l1", *PLAIN)),
    (4, ("M", *RATIO[2:], "--macs", "60%", *PLAIN)),
    (4, ("M", *RATIO[2:], "--macs", "60%", "--depth", "--data", "random")),
    (4, ("M", *RATIO, "--no-verify")),
    (3, ("M", *RATIO, "--recover", "bias")),
    (3, ("M", *RATIO, "--format", "json", "--picture", "m.pruned.svg")),
    (6, ("inspect", "M")),
    (5, ("explain", "M", "T")),
    (5, ("unify", "M", "--block", "4", "--no-bench", "--time-budget", "5s")),
)
"""Command lines, and how often they are drawn. M is the model, T one of its tensors."""


def deep(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A model with one more node, in bodies within bodies."""
    depth, found = rng.choice((33, 34, 100, 1000, 20_000)), b""
    for _ in range(depth):
        for field in (6, 5, 1):  # the graph of an attribute, the attribute of a node, the node of a graph
            found = bytes([field << 3 | 2]) + _varint(len(found)) + found
    return data + b"\x3a" + _varint(len(found)) + found, f"bytes: a node in {depth} bodies"


def _varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def mutant(name: str, seed: int, make: Callable[[], ModelProto], other: bytes) -> Case:
    """The mutant of that name, and the command line that it is given to."""
    rng = generator(seed, name)
    command = rng.choices([c for _, c in COMMANDS], [w for w, _ in COMMANDS])[0]
    model = ModelProto()
    model.CopyFrom(make())
    subject, said, whole = Subject(model, {}), [], model.SerializeToString()
    tensor = rng.choice(structure.names(subject))
    data = whole
    if rng.random() < BYTES:
        data, what = deep(rng, whole) if rng.random() < DEEP else damaged(rng, whole, other)
        said.append(what)
    else:
        wanted = rng.choices((1, 2, 3), (75, 18, 7))[0]
        for _ in range(20 * wanted):
            change = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            before = model.SerializeToString()
            try:
                what = change(rng, subject)
                data = model.SerializeToString()
            except (
                DecodeError,
                EncodeError,
                ValueError,
                IndexError,
            ):  # a change that protobuf refuses, or on top of an earlier one
                model.ParseFromString(before)
                continue
            said += [what] if what else []
            if len(said) == wanted:
                break
    arguments = tuple({"M": "m.onnx", "T": tensor}.get(word, word) for word in command)
    return Case(f"models/{name}", "; ".join(said), {"m.onnx": data, **subject.files}, arguments, "m.onnx")
