# SPDX-License-Identifier: Apache-2.0
"""Sizes for the axes of the inputs that a file leaves open: what the user gives, and what is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from onnx import ModelProto, ValueInfoProto

from onnxprune.errors import OptionError, did_you_mean
from onnxprune.ir.graph import Fact, free_inputs
from onnxprune.ir.infer import fact_of_type
from onnxprune.types import Shapes

# Small sizes keep the analysis fast; they differ in every place so that a mix-up shows, and 16 divides the spatial ones.
# Each pair is (height or depth, width); the next one is tried if the model contradicts the previous one.
FIRST = ((64, 64), (48, 48), (32, 32), (224, 224), (299, 299), (512, 512))
SECOND = ((96, 96), (48, 96), (32, 96), (96, 48))
# The next length is tried if the previous one leaves some tensor empty: windows of raw audio have hundreds of samples.
LENGTHS_OF_FIRST = (16, 256, 4096, 65536)
LENGTHS_OF_SECOND = (24, 384, 6144, 98304)

MOST_VALUES = 2**31
"""Maximum number of values of an input (8 GiB of float32)."""
NAMELESS = frozenset({"none", "unk", "unknown", "dynamic"})
"""Names of open sizes that say nothing, besides those without a letter, such as `?`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A choice of the open sizes.

    Attributes:
        batch: size of axes that count samples.
        length: size of axes that are neither first, nor of an image.
        height, width: sizes of an image's axes.
        fed: input name -> shape, which takes precedence; sizes below one leave an axis open.
    """

    batch: int
    length: int
    height: int
    width: int
    fed: Shapes = field(default_factory=dict)


def trials(pairs: Sequence[tuple[int, int]], batch: int, lengths: Sequence[int], fed: Shapes) -> Iterator[list[Trial]]:
    """For each length, the choices with each (height, width)."""
    for length in lengths:
        yield [Trial(batch, length, height, width, fed) for height, width in pairs]


def input_facts(values: Sequence[ValueInfoProto], trial: Trial, channels: Callable[[str], int]) -> dict[str, Fact]:
    """The facts of the inputs with their open sizes filled in; the same symbol gets the same size everywhere.

    Args:
        channels: name of an input -> the number of channels of an image whose channels are open.
    """
    named = sizes_of_symbols(values, trial.fed)
    # a symbol that is the first axis of one input is the batch wherever else it stands
    for symbol in {symbol for v in values if (d := _dims(v)) and (symbol := symbol_of(d[0]))}:
        named.setdefault(symbol, trial.batch)
    return {v.name: _input_fact(v, trial, named, channels) for v in values}


def _input_fact(value: ValueInfoProto, trial: Trial, named: dict[str, int], channels: Callable[[str], int]) -> Fact:
    fact, given = fact_of_type(value.type), trial.fed.get(value.name)
    if fact.shape is None:
        return fact if given is None else Fact(fact.dtype, tuple(given))
    shape = []
    for k, d in enumerate(_dims(value)):
        if _stated(d):
            shape.append(d.dim_value)
        elif given is not None and k < len(given) and given[k] > 0:
            shape.append(given[k])
        else:
            default = _default(value, k, trial, channels)
            shape.append(named.setdefault(symbol, default) if (symbol := symbol_of(d)) else default)
    return Fact(fact.dtype, tuple(shape))


def _default(value: ValueInfoProto, axis: int, trial: Trial, channels: Callable[[str], int]) -> int:
    dims = _dims(value)
    if _is_batch(dims, axis):
        return trial.batch
    if len(dims) < 4:
        return trial.length
    # channels come last if theirs is the only size that the file states
    stated = [_stated(d) for d in dims]
    place = len(dims) - 1 if stated[-1] and not any(stated[1:-1]) else 1
    if axis == place:
        return channels(value.name)
    return trial.width if axis == len(dims) - (1 if place == 1 else 2) else trial.height


def _is_batch(dims: Sequence[Any], axis: int) -> bool:
    """Whether an open axis counts samples: the first, or the middle one of a recurrent state [layers, batch, features]."""
    state = len(dims) == 3 and _stated(dims[0]) and dims[0].dim_value > 1 and _stated(dims[2])
    return axis == 0 or (axis == 1 and state)


def _dims(value: ValueInfoProto) -> Sequence[Any]:
    return value.type.tensor_type.shape.dim


def symbol_of(dim: Any) -> str:
    """The name that an open size shares with others; empty if it has none, or one that exporters give to every open size."""
    name = str(dim.dim_param)
    return "" if name.lower() in NAMELESS or not any(map(str.isalpha, name)) else name


def _stated(dim: Any) -> bool:
    return bool(dim.HasField("dim_value") and dim.dim_value >= 0)


def sizes_of_symbols(values: Sequence[ValueInfoProto], fed: Shapes) -> dict[str, int]:
    """Symbol -> the size that the user gives it in the shape of an input.

    Raises:
        OptionError: a symbol is given two sizes.
    """
    found: dict[str, int] = {}
    places: dict[str, str] = {}
    for value in values:
        for d, size in zip(_dims(value), fed.get(value.name, ()), strict=False):
            symbol = symbol_of(d)
            if symbol and size > 0 and not _stated(d):
                first = found.setdefault(symbol, size)
                where = places.setdefault(symbol, value.name)
                if first != size:
                    elsewhere = "another axis" if where == value.name else f"'{where}'"
                    raise OptionError(
                        f"--input-shape: got {size} for '{symbol}' in '{value.name}', but {first} in {elsewhere}; "
                        "one symbol has one size"
                    )
    return found


def open_batch(values: Sequence[ValueInfoProto], shapes: Shapes) -> Shapes:
    """Shapes whose first axes, and axes with the same symbol, are open again."""
    symbols = {symbol_of(d[0]) for v in values if (d := _dims(v))} - {""}
    found = {}
    for v in values:
        if v.name in shapes and len(dims := _dims(v)) == len(shapes[v.name]):  # others are sequences and the like
            again = [symbol_of(d) in symbols or (_is_batch(dims, k) and not _stated(d)) for k, d in enumerate(dims)]
            found[v.name] = [0 if is_open else n for n, is_open in zip(shapes[v.name], again, strict=True)]
    return found


def check_shapes(model: ModelProto, fed: Shapes) -> None:
    """Check that the shapes given by the user are for inputs of the model and agree with the file and with each other.

    Raises:
        OptionError: a name is not an input, or a shape contradicts the file or another shape.
    """
    values = free_inputs(model)
    inputs = {v.name: fact_of_type(v.type).shape for v in values}
    for name, sizes in fed.items():
        if prod(max(n, 1) for n in sizes) > MOST_VALUES:
            got = "x".join(map(str, sizes))
            raise OptionError(f"--input-shape: got {got} for '{name}', expected at most {MOST_VALUES:,} values per input")
        if name not in inputs:
            hint = did_you_mean(name, inputs)
            raise OptionError(f"--input-shape: '{name}' is not an input; {hint}the inputs are {', '.join(inputs)}")
        stated = inputs[name]
        if stated is None:
            continue
        fits = len(stated) == len(sizes) and all(a < 0 or b <= 0 or a == b for a, b in zip(stated, sizes, strict=False))
        if not fits:
            got, expected = ("x".join("?" if n <= 0 else str(n) for n in shape) for shape in (sizes, stated))
            raise OptionError(f"--input-shape: got {got} for '{name}', but the file says {expected} (? is any size)")
    sizes_of_symbols(values, fed)


def unranked(values: Sequence[ValueInfoProto], fed: Shapes) -> Mapping[str, Sequence[int]]:
    """The shapes given for inputs of which the file states not even the number of axes."""
    return {v.name: fed[v.name] for v in values if v.name in fed and fact_of_type(v.type).shape is None}
