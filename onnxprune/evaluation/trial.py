# SPDX-License-Identifier: Apache-2.0
"""Whether a model runs at all: tried in a process of its own, where a crash, a hang or a hunger for memory does no harm."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import first_line
from onnxprune.ir.scratch import scratch
from onnxprune.ort import sample, session
from onnxprune.types import Rng, Shapes

SECONDS, PER_SECOND = 10, 2**22
"""Time for a trial: a second more for so many bytes of the model."""
MEMORY = 3 * 2**30
"""Bytes for a trial, on top of three times the size of the model."""
SIZES = (1, 2, 8, 32, 64, 224)
"""What is tried for sizes that the model leaves open, if the user does not state them."""
CHILD = "from onnxprune.evaluation.trial import main; main()"
RUNS, FAILS = 0, 3
"""Exit statuses of a trial."""
STARVED = ("bad_alloc", "allocate memory")
"""How onnxruntime says that memory was not enough."""
MISSING = ("NOT_IMPLEMENTED", "is not a registered", "is under development", "Unsupported model IR version")
"""How it says that a model may be valid, but that it is too old, or lacks an operator."""
BOTH = "neither onnxruntime nor onnx.reference can run this model"


@dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Attributes:
        why: a clause that says why the model does not run; empty if it runs, or if nothing is known.
        harmful: whether it crashed, or took more time or memory than there was.
        declined: why onnxruntime finds it invalid; empty if it does not, or if nothing is known.
    """

    why: str = ""
    harmful: bool = False
    declined: str = ""


def try_out(model: Path | bytes, shapes: Shapes, size: int = 0) -> Trial:
    """Whether onnxruntime, or else ONNX's reference evaluator, runs a model, and what comes out are numbers.

    Args:
        model: its file, or its bytes.
        shapes: input name -> shape, where the user states them.
        size: its bytes with all weights, if more than those of the file.
    """
    with scratch() as folder:
        path = model if isinstance(model, Path) else folder / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        found = folder / "why.txt"
        stated = json.dumps({name: list(shape) for name, shape in shapes.items()})
        size = max(size, path.stat().st_size)
        seconds = SECONDS + size // PER_SECOND
        command = [sys.executable, "-c", CHILD, str(path.resolve()), stated, str(found), str(size), str(seconds)]
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            run = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False, cwd=folder)
        except subprocess.TimeoutExpired:
            return Trial(f"{BOTH} within {seconds} s on small inputs", True)
        except OSError:
            return Trial()
        if run.returncode == FAILS and found.is_file():
            why, declined = json.loads(found.read_text(encoding="utf-8"))
            return Trial(why, any(text in why for text in STARVED), declined)
        if run.returncode != RUNS:
            return Trial(f"{BOTH}: they crash, or need more than {MEMORY >> 30} GiB on small inputs", True)
        return Trial()


def main() -> None:
    """Try a model in this process; the exit status says whether it runs, and a file why not."""
    path, shapes, found, size, seconds = sys.argv[1:]
    _bound(int(size), int(seconds))
    why = tried(path, json.loads(shapes))
    if any(why):
        Path(found).write_text(json.dumps(why), encoding="utf-8")
    with contextlib.suppress(Exception):  # which the program uses too, and which must end
        onnx.shape_inference.infer_shapes(onnx.load(path))
    os._exit(FAILS if any(why) else RUNS)  # without waiting for threads that a broken model keeps busy


def _bound(size: int, seconds: int) -> None:
    """Bound the memory and the time of this process."""
    if sys.platform == "win32":
        return
    import resource

    for kind, most in ((resource.RLIMIT_AS, MEMORY + 3 * size), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def tried(path: str, shapes: Mapping[str, list[int]]) -> tuple[str, str]:
    """Why neither runtime can run the model in a file, and why onnxruntime finds it invalid.

    The first is empty if one of them can, or opens it but its inputs are not tensors.

    Raises:
        MemoryError: there is not enough of it.
    """
    try:
        opened = session(path)
    except MemoryError:
        raise
    except Exception as e:  # whatever onnxruntime does not implement or accept
        first = _said(e)
        valid = any(text in str(e) for text in MISSING)
    else:
        inputs = {v.name: (str(v.type), v.shape) for v in opened.get_inputs()}
        # as verification does: what it opens, it has to run
        return _why(lambda feeds: opened.run(None, feeds), inputs, shapes, f"{BOTH}: onnxruntime says: "), ""
    from onnx.reference import ReferenceEvaluator  # slow to load, and seldom needed

    try:
        model = onnx.load(path)
        evaluator = ReferenceEvaluator(model)
        stored = {t.name for t in model.graph.initializer}
        typed = {v.name: _declared(v.type) for v in model.graph.input if v.name not in stored}
        fails = bool(_why(lambda feeds: list(evaluator.run(None, feeds)), typed, shapes))
    except Exception:
        fails = True
    return f"{BOTH}: onnxruntime says: {first}" if fails else "", "" if valid else first


PREAMBLE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:|/onnxruntime_src/\S+ "
    r"|Non-zero status code returned while "
)


def _said(e: Exception) -> str:
    """What a runtime says, from where it begins to say it."""
    return PREAMBLE.sub("", first_line(e, 1000)).strip()


def _declared(kind: onnx.TypeProto) -> tuple[str, list[Any]]:
    """Type and sizes of a graph input, as onnxruntime writes them."""
    tensor = kind.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if kind.HasField("tensor_type") else "other"
    return f"tensor({name})", [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]


def _why(
    run: Callable[[dict[str, Any]], Sequence[Any]],
    inputs: Mapping[str, tuple[str, Any]],
    shapes: Mapping[str, list[int]],
    says: str = "",
) -> str:
    """Why a model that was opened fails on all inputs; empty if it runs on some, or takes other things than tensors."""
    first = ""
    if not all(re.fullmatch(r"tensor\(\w+\)", kind) for kind, _ in inputs.values()):
        return ""
    for feeds in _feeds(inputs, shapes):
        try:
            if _is_of_numbers(run(feeds)):
                return ""
            first = first or "whatever goes in, only NaN and infinity come out of this model"
        except MemoryError:
            raise
        except Exception as e:  # these sizes may not fit
            first = first or says + _said(e)
    return first


def _is_of_numbers(outputs: Sequence[Any]) -> bool:
    """Whether outputs hold a finite number, or are none of floating-point numbers."""
    floats = [x for x in map(np.asarray, outputs) if x.dtype.kind == "f" and x.size]
    return not floats or any(bool(np.isfinite(x).any()) for x in floats)


def _feeds(inputs: Mapping[str, tuple[str, Any]], shapes: Mapping[str, list[int]]) -> Iterator[dict[str, Any]]:
    """Seeded inputs of several sizes: small, small but for the first axis, and larger."""
    is_open = any(not isinstance(n, int) or n < 1 for _, shape in inputs.values() for n in shape)
    for size in SIZES if is_open else SIZES[:1]:
        for first, most in product(dict.fromkeys((size, 1)), (7, 1)):
            rng, found = np.random.default_rng(0), {}
            for name, (kind, shape) in inputs.items():
                whole = [n if isinstance(n, int) and n > 0 else first if k == 0 else size for k, n in enumerate(shape)]
                found[name] = _values(rng, kind, tuple(shapes.get(name, whole)), most)
            yield found


def _values(rng: Rng, kind: str, shape: tuple[int, ...], most: int) -> Any:
    """Values of a type such as `tensor(float)`; integers up to `most`, which may index tables."""
    name = re.sub(r"^tensor\((\w+)\)$", r"\1", kind).upper()
    if name == "STRING":
        return np.full(shape, "a", object)
    found = sample(rng, int(onnx.TensorProto.DataType.Value(name)), shape)
    return np.minimum(found, most) if found.dtype.kind in "iu" else found
