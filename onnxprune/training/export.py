# SPDX-License-Identifier: Apache-2.0
"""Export of a PyTorch module to ONNX with BatchNormalization kept, and every weight under its name in the module.

By default both exporters of PyTorch fold BatchNormalization into convolutions, and rename or merge weights: then scales are not
scored, and a plan does not name what the module has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from onnxprune.errors import OptionError, TrainingError, did_you_mean, first_line
from onnxprune.ir.files import runnable
from onnxprune.ir.placing import check_folder
from onnxprune.ir.saving import save
from onnxprune.ir.scratch import scratch
from onnxprune.ort import session
from onnxprune.training.modules import cause_of, device_of, evaluating, outputs_of, unwrapped
from onnxprune.training.names import named_tensors, with_own_weights
from onnxprune.types import Feeds

TORCHSCRIPT, DYNAMO = "torchscript", "dynamo"
EXPORTERS = (TORCHSCRIPT, DYNAMO)
OPSET = 17
"""What the older exporter writes: the newest it knows."""
TOLERANCE = 1e-3
"""Largest difference of outputs from PyTorch's, relative to the largest output: another order of additions, and no more."""
BATCH = "N"

Example = Tensor | Sequence[Tensor]


def export(
    module: nn.Module,
    example_inputs: Example,
    path: str | Path,
    *,
    exporter: str = TORCHSCRIPT,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Write a module as an ONNX file that can be pruned, and check the file against PyTorch in onnxruntime.

    Args:
        module: the trained module; wrappers (DistributedDataParallel, torch.compile) are looked through. It is not changed.
        example_inputs: a tensor, or one for each argument of `forward`.
        path: the file.
        exporter: "torchscript", or "dynamo" (needs the package onnxscript).
        dynamic_batch: whether the first axis of all inputs and outputs has an open size.
        input_names, output_names: names in the file; by default x, x1, ... and y, y1, ...

    Returns:
        The path.

    Raises:
        TrainingError: the module cannot be exported, or the file computes something else.
        OptionError: an argument is wrong.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    check_folder(path)
    model = exported(
        module,
        example_inputs,
        exporter=exporter,
        dynamic_batch=dynamic_batch,
        input_names=input_names,
        output_names=output_names,
    )
    check_export(module, example_inputs, model, dynamic_batch=dynamic_batch, input_names=input_names)
    save(model, path)
    return path


def exported(
    module: nn.Module,
    example_inputs: Example,
    *,
    exporter: str = TORCHSCRIPT,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ModelProto:
    """The ONNX model of a module in memory; arguments and errors as for `export`, which also checks it."""
    if exporter not in EXPORTERS:
        raise OptionError(f"exporter: got {exporter!r}; {did_you_mean(str(exporter), EXPORTERS)}expected torchscript or dynamo")
    module = unwrapped(module)
    _check_types(module)
    inputs = example_of(module, example_inputs)
    with evaluating(module), _quiet():
        results = outputs_of(module, inputs)
        names = _names("input_names", "x", input_names, len(inputs)), _names("output_names", "y", output_names, len(results))
        if twice := next((name for name in names[1] if name in names[0]), ""):
            raise OptionError(f"input_names, output_names: both have '{twice}'; every tensor needs a name of its own")
        try:
            write = _torchscript if exporter == TORCHSCRIPT else _dynamo
            model = write(module, inputs, names, dynamic_batch)
        except ImportError as e:
            raise TrainingError(
                f"exporter '{exporter}' needs the package {e.name}, which is missing: pip install {e.name}"
            ) from e
        except Exception as e:  # exporters raise many kinds of errors
            other = DYNAMO if exporter == TORCHSCRIPT else TORCHSCRIPT
            why = first_line(cause_of(e))
            raise TrainingError(f"{type(module).__name__}: exporter '{exporter}' failed: {why}; try exporter='{other}'") from e
    return with_own_weights(model, module)


def _check_types(module: Any) -> None:
    """Check that onnxruntime can run a module's types on the CPU.

    Raises:
        OptionError: it is not a module.
        TrainingError: onnxruntime cannot.
    """
    if not isinstance(module, nn.Module):
        raise OptionError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    wrong = next((n for n, t in named_tensors(module).items() if t.dtype == torch.bfloat16), None)
    if wrong is not None:
        kind = type(module).__name__
        raise TrainingError(f"{kind}: '{wrong}' is bfloat16, which onnxruntime cannot run on the CPU; export module.float()")


def check_export(
    module: nn.Module,
    example_inputs: Example,
    model: ModelProto,
    *,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
) -> float:
    """The largest difference between the outputs of an exported model in onnxruntime and the module's, relative to the largest.

    If the batch is dynamic, the example and a batch that is longer by one are compared.

    Raises:
        TrainingError: it is more than rounding, or the file does not run.
    """
    module, name = unwrapped(module), type(unwrapped(module)).__name__
    inputs = example_of(module, example_inputs)
    names = _names("input_names", "x", input_names, len(inputs))
    longer = tuple(torch.cat([x, x[:1]]) if x.ndim else x for x in inputs)
    with evaluating(module), runnable(model) as file:
        try:
            run = session(file)
        except Exception as e:  # anything onnxruntime does not implement
            other = "; try exporter='torchscript', or export module.float()"
            raise TrainingError(f"{name}: onnxruntime cannot open the exported file: {first_line(e)}{other}") from e
        worst = _difference(module, inputs, run, names, "")
        if dynamic_batch:
            advice = "; use x.shape[0] in forward, not a number or len(x), or exporter='dynamo', or dynamic_batch=False"
            worst = max(worst, _difference(module, longer, run, names, advice))
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"{name}: the exported file differs from PyTorch by {worst:.1e} of the largest output, expected at most "
            f"{TOLERANCE:.0e}; does forward depend on values of the input, or on chance?"
        )
    return worst


def _difference(module: nn.Module, inputs: Sequence[Tensor], run: Any, names: Sequence[str], advice: str) -> float:
    feeds = _feeds(run, inputs, names)
    expected = [y.cpu().numpy() for y in outputs_of(module, inputs)]
    try:
        found = run.run(None, feeds)
    except Exception as e:  # anything onnxruntime raises
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        where = f"{type(module).__name__}: the exported file cannot run on inputs of shape {shapes}"
        raise TrainingError(f"{where}, which PyTorch can: {first_line(e)}{advice}") from e
    return max((difference(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def run_exported(model: ModelProto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of an exported model, with default names of inputs, in onnxruntime."""
    with runnable(model) as file:
        run = session(file)
        feeds = _feeds(run, inputs, _names("input_names", "x", None, len(inputs)))
        return [torch.from_numpy(y) for y in run.run(None, feeds)]


def _feeds(run: Any, inputs: Sequence[Tensor], names: Sequence[str]) -> Feeds:
    known = {i.name for i in run.get_inputs()}  # an input that the network ignores is not in the file
    return {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True) if name in known}


def difference(found: Any, expected: Any) -> float:
    """The largest difference of two arrays relative to the largest finite expected value.

    Infinite if shapes differ, or if only one of two values is a number.
    """
    if found.shape != expected.shape:
        return float("inf")
    a, b = (np.asarray(x, np.float64) for x in (found, expected))
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.isfinite(a[~equal]).all() or not np.isfinite(b[~equal]).all():
        return float("inf")
    largest = np.abs(b[np.isfinite(b)]).max(initial=1e-12)
    return float(np.abs(a[~equal] - b[~equal]).max(initial=0.0) / largest)


def example_of(module: nn.Module, example_inputs: Example) -> tuple[Tensor, ...]:
    """Example inputs as a tuple, on the device of the module.

    Raises:
        OptionError: they are not tensors.
    """
    one = isinstance(example_inputs, Tensor) or not isinstance(example_inputs, Sequence)
    inputs = (example_inputs,) if one else tuple(example_inputs)
    wrong = next((x for x in inputs if not isinstance(x, Tensor)), None)
    if wrong is not None or not inputs:
        got = "nothing" if not inputs else type(wrong).__name__
        raise OptionError(f"example_inputs: got {got}, expected a tensor, or one for each argument of forward")
    return tuple(x.to(device_of(module)) for x in inputs)


def _names(option: str, stem: str, given: Sequence[str] | None, count: int) -> list[str]:
    if given is None:
        return [f"{stem}{k or ''}" for k in range(count)]
    if len(given) != count:
        raise OptionError(f"{option}: got {len(given)} names, expected {count}")
    return list(given)


def _torchscript(
    module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[list[str], list[str]], dynamic: bool
) -> ModelProto:
    """By tracing. Constants are not folded: folding transposes weights, which lose their names."""
    axes = {name: {0: BATCH} for name in (*names[0], *names[1])} if dynamic else None
    with scratch() as folder:
        path = folder / "model.onnx"
        with _without_native_output():
            torch.onnx.export(
                module,
                inputs,
                str(path),
                input_names=names[0],
                output_names=names[1],
                dynamic_axes=axes,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,  # in eval mode: BatchNormalization is neither folded nor trained
                do_constant_folding=False,
                dynamo=False,
            )
        return onnx.load(path)


def _dynamo(module: nn.Module, inputs: tuple[Tensor, ...], names: tuple[list[str], list[str]], dynamic: bool) -> ModelProto:
    """By torch.export. Its optimiser would fold BatchNormalization."""
    if dynamic:  # a size of 1 would be taken for a constant
        inputs = tuple(torch.cat([x, x]) if x.ndim and len(x) == 1 else x for x in inputs)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} if x.ndim else None for x in inputs) if dynamic else None
    program = torch.onnx.export(
        module,
        inputs,
        input_names=names[0],
        output_names=names[1],
        dynamic_shapes=shapes,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _without_native_output() -> Iterator[None]:
    """Without what PyTorch's C++ prints: the older exporter shows its whole graph if it fails, whatever it is told."""
    saved, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nothing)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings and progress, which do not concern the user of this function."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
