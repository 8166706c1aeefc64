# SPDX-License-Identifier: Apache-2.0
"""Damage to bytes and to text, whatever they mean."""

from __future__ import annotations

from random import Random
from typing import TypeVar

Item = TypeVar("Item")

HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
NAMES = (
    *("", " ", "a/b", "../x", "/etc/passwd", "a\nb", "\x1b[31mred", "\x00", "é", "\u202e", "x" * 300, "x" * 5000),
    *("%s", "{}", "[red]", "NaN", ".", "名"),
)
"""Names that somebody could give to a thing."""
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 9, 16, -2, -3, -8, 255, 1000, 65537, -(2**31), -(2**63), *HUGE)
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))


def damaged(rng: Random, data: bytes, other: bytes = b"") -> tuple[bytes, str]:
    """Some bytes changed, and what was done."""
    found, size = bytearray(data), max(1, len(data))
    at, length = rng.randrange(size), rng.choice((1, 2, 4, 8, 32, 200, size // 2))
    kind = rng.choice("flip flip set set insert delete truncate repeat zeros swap splice append".split())
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(size)
            found[place : place + 1] = bytes(b ^ (1 << rng.randrange(8)) for b in found[place : place + 1])
    elif kind == "set":
        found[at : at + 1] = bytes([rng.choice((0, 1, 8, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
    elif kind == "insert":
        found[at:at] = rng.randbytes(length % 64)
    elif kind == "delete":
        del found[at : at + length]
    elif kind == "truncate":
        del found[at:]
    elif kind == "repeat":
        found[at:at] = found[at : at + length]
    elif kind == "zeros":
        found[at : at + length] = bytes(min(length, size - at))
    elif kind == "swap":
        a, b = found[at : at + length], found[:length]
        found[:length], found[at : at + length] = a, b
    elif kind == "splice":
        start = rng.randrange(max(1, len(other)))
        found[at:] = other[start:]
    else:
        found += rng.randbytes(length)
    return bytes(found), f"bytes: {kind} at {at}"


def one(rng: Random, items: list[Item]) -> Item | None:
    """One of a list, None if it is empty."""
    return rng.choice(items) if items else None
