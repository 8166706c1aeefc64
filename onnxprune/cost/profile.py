# SPDX-License-Identifier: Apache-2.0
"""The profile of a machine: what layers of any width take there, and the multiples at which it gains; a JSON file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from onnxprune.cost.machine import Machine
from onnxprune.cost.stacks import FLOAT, KINDS, PRECISIONS
from onnxprune.cost.staircase import Curve, multiple_of
from onnxprune.errors import DataError
from onnxprune.ir.texts import text_of

FORMAT = "onnxprune-profile/1"
DECISIVE = ("convolution", "pointwise", "depthwise")
"""The kinds whose float layers together decide the multiple of a network: they take its time, and often share a width."""


@dataclass(frozen=True)
class Profile:
    """What layers of any width take on one machine.

    Attributes:
        machine: where it was measured.
        date: when, as 2026-11-28.
        multiple: widths that are multiples of it are fast; 1: all are.
        alignment: precision -> kind -> the same for layers of that kind alone.
        curves: what was measured.
    """

    machine: Machine
    date: str
    multiple: int
    alignment: Mapping[str, Mapping[str, int]]
    curves: tuple[Curve, ...] = field(repr=False)

    @classmethod
    def of(cls, machine: Machine, date: str, curves: Sequence[Curve]) -> Profile:
        """What curves show: the multiples of each kind over all its sizes, and that of the decisive kinds together."""
        alignment = {
            precision: {k: multiple_of(found) for k in KINDS if (found := [*_some(curves, precision, (k,))])}
            for precision in PRECISIONS
        }
        return cls(machine, date, multiple_of([*_some(curves, FLOAT, DECISIVE)]), alignment, tuple(curves))

    @property
    def digest(self) -> str:
        """The SHA-256 of its JSON, by which plans name it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """As a file that `read` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: str | Path, name: str = "") -> Profile:
        """Read a file.

        Args:
            path: the file.
            name: how messages refer to it; by default, the path.

        Raises:
            DataError: it cannot be read, or is not a profile of this format.
        """
        name = name or str(path)
        try:
            given = json.loads(text_of(Path(path)))
        except OSError as e:
            raise DataError(f"{name}: cannot be read: {e.strerror}; 'onnxprune profile -o FILE' writes one") from e
        except (ValueError, RecursionError) as e:
            raise DataError(f"{name}: is not JSON; expected a file that 'onnxprune profile -o FILE' wrote") from e
        stated = given.get("format") if isinstance(given, dict) else None
        if stated != FORMAT:
            got = f"format {stated!r:.60}" if stated is not None else "no format"
            raise DataError(f"{name}: got {got}, expected \"{FORMAT}\"; measure again with 'onnxprune profile -o FILE'")
        try:
            return _profile(given)
        except ValueError as e:
            raise DataError(f"{name}: is a damaged profile: {e}; measure again with 'onnxprune profile -o FILE'") from e


def _some(curves: Iterable[Curve], precision: str, kinds: Sequence[str]) -> Iterable[Curve]:
    return (c for c in curves if c.precision == precision and c.kind in kinds)


def _profile(given: Mapping[str, Any]) -> Profile:
    """A profile from its JSON; ValueError says what is missing or wrong."""
    stated = _field(given, "machine", dict)
    kinds: dict[str, type] = {"threads": int, "features": list}
    values = {f.name: _field(stated, f.name, kinds.get(f.name, str)) for f in fields(Machine)}
    machine = Machine(**{**values, "features": tuple(map(str, values["features"]))})
    precisions = _field(given, "alignment", dict)
    alignment = {
        p: {kind: _multiple(found, kind) for kind in found} for p in precisions for found in [_field(precisions, p, dict)]
    }
    curves = tuple(_curve(c) for c in _field(given, "curves", list))
    return Profile(machine, _field(given, "date", str), _multiple(given, "multiple"), alignment, curves)


def _curve(given: Any) -> Curve:
    if not isinstance(given, dict):
        raise ValueError("a curve is not an object")
    points = _field(given, "milliseconds", dict)
    times = {width: float(_field(points, width, (int, float))) for width in points}
    if not times or not all(w.isdecimal() and int(w) > 0 and 0 < ms < math.inf for w, ms in times.items()):
        raise ValueError("milliseconds: expected widths, and more than 0 ms for each")
    kind, precision = _field(given, "kind", str), _field(given, "precision", str)
    return Curve(kind, precision, _field(given, "size", int), {int(w): ms for w, ms in times.items()})


def _multiple(given: Mapping[str, Any], name: str) -> int:
    found: int = _field(given, name, int)
    if found < 1:
        raise ValueError(f"{name}: got {found}, expected at least 1")
    return found


def _field(given: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    if name not in given:
        raise ValueError(f"'{name}' is missing")
    value = given[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r:.40}")
    return value
