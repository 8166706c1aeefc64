# SPDX-License-Identifier: Apache-2.0
"""Mutants of plans, profiles and files of ratios."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzzing.blobs import HUGE, NAMES, NUMBERS, REALS, damaged
from fuzzing.cases import Case
from fuzzing.classifier import QUICK, classifier, cut, plan
from fuzzing.seeds import generator, made

MACHINE = {"processor": "any", "features": [], "system": "Linux", "governor": "", "onnxruntime": "1.20.0", "provider": "any"}
PROFILE: dict[str, Any] = {
    "format": "onnxprune-profile/1",
    "machine": {**MACHINE, "threads": 1},
    "date": "2026-01-01",
    "multiple": 8,
    "alignment": {"float": {"convolution": 8}},
    "curves": [{"kind": "convolution", "precision": "float", "size": 8, "milliseconds": {"8": 1.0, "16": 2.5, "24": 3.5}}],
}
"""A profile, of a machine that nobody has."""
RATIOS = '"w3" = 0\n"w2*" = {ratio = 0.5}\n"*" = {keep_at_least = 0.25}\n'


def odd(rng: Random, value: Any, depth: int = 0) -> Any:
    """A JSON value with something odd somewhere in it."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if inner and depth < 5 and rng.random() < (0.9 if depth < 2 else 0.6):
        at = rng.choice(inner)
        found: Any = value.copy()
        kind = rng.random()
        if kind < 0.12:
            del found[at]
        elif kind < 0.2 and isinstance(found, list):
            found.insert(at, found[at])
        elif kind < 0.2:
            found[rng.choice(NAMES)] = found.pop(at)
        else:
            found[at] = odd(rng, found[at], depth + 1)
        return found
    numbers = [rng.choice(NUMBERS), rng.choice(REALS), -1, 0, 1, True]
    lists = [[], [0, 0], [1, 0], [-1], [[]]]
    objects = [{}, {"0": []}, {"-1": [0]}, {"²": [0]}, {"0": [0.5]}]
    plain: list[Any] = [None, *numbers, rng.choice(NAMES), *lists, *objects]
    if isinstance(value, list) and rng.random() < 0.5:
        return [*value, rng.choice((value[-1] if value else 0, rng.choice(HUGE), -1, "0", None, 1.5))]
    return rng.choice(plain)


def text(rng: Random, good: str) -> bytes:
    """A text file with damage that no structure knows of."""
    kind = rng.choice("bytes bytes deep object empty bom utf-16 numbers twice spaces null".split())
    depth, data = rng.choice((50, 1000, 100_000)), good.encode()
    made = {
        "deep": b"[" * depth + b"]" * depth,
        "object": b'{"a":' * depth + b"1" + b"}" * depth,
        "empty": b"",
        "bom": b"\xef\xbb\xbf" + data,
        "utf-16": good.encode("utf-16"),
        "numbers": data.replace(b"0", b"9" * rng.choice((20, 400, 5000)), 1),
        "twice": data + data,
        "spaces": b" " * 100_000 + data,
        "null": data.replace(b" ", b"\0", 3),
    }
    return made.get(kind) or (damaged(rng, data)[0] if kind == "bytes" else b"")


def plans(name: str, seed: int) -> Case:
    """A plan, a profile or a file of ratios that is damaged."""
    rng = generator(seed, "plans", name)
    command = rng.choice(("apply", "apply", "apply", "verify", "verify", "work", "profile", "ratios"))
    good = PROFILE if command == "profile" else plan()
    files = {"m.onnx": classifier(), "c.onnx": cut()}
    if command == "ratios":
        data = text(rng, RATIOS) if rng.random() < 0.4 else _toml(rng).encode("utf-8", "replace")
    elif rng.random() < 0.25:
        data = text(rng, json.dumps(good))
    else:
        changed = good
        for _ in range(rng.choice((1, 1, 2))):
            changed = odd(rng, changed)
        data = json.dumps(changed).encode("utf-8", "replace")
    if rng.random() < 0.1:  # right in itself, for another model
        files["m.onnx"] = made("mlp").SerializeToString()
    arguments = {
        "apply": ("apply", "m.onnx", "p.json", "--no-bench"),
        "verify": ("verify", "m.onnx", "c.onnx", "p.json"),
        "work": ("m.onnx", *QUICK, "--work", "p.json"),
        "profile": ("m.onnx", *QUICK, "--recover", "none", "--profile", "p.json"),
        "ratios": ("m.onnx", *QUICK, "--recover", "none", "--layer-ratios", "p.json"),
    }[command]
    return Case(f"plans/{name}", f"{command}: {data[:200]!r}", {**files, "p.json": data}, arguments)


def _toml(rng: Random) -> str:
    """A file of ratios with odd values."""
    values = "0.5 -1 1 nan inf true [] {} {ratio=2} {keep_at_least=-1} {keep=1}".split()
    value = rng.choice((*values, '"half"', "9" * 30))
    pattern = rng.choice(("*", "w1", "[", "nothing*", "", "w1[", "\\", "x" * 5000))
    return f"{json.dumps(pattern)} = {value}\n" * rng.choice((1, 1, 2)) + rng.choice(("", RATIOS, "[table]\na = 1\n"))
