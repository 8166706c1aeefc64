#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How many graphs convert to PyTorch modules that equal onnxruntime and train, with our converter and with others.

usage: python tools/convert.py FOLDER_OR_MODEL [...] [--with ours|onnx2torch|onnx2pytorch] [--only GLOB] [--every N]
                               [--ratio R] [--table FILE.md]
A folder is a zoo (`hydrate.py` fills its weightless graphs) or holds .onnx files. For each graph, on one seeded input:
  converts  a module was built and ran
  error     largest difference from onnxruntime over its largest output; equal: at most 1e-4. Some networks amplify rounding
            until their outputs carry no information; for larger errors, two more columns decide:
  optimised change of onnxruntime's outputs when it optimises the graph; equal: an error of at most three times as much
  by node   largest error of a single node, given onnxruntime's own values; equal: at most 1e-4
  trained   share of the stored numbers (float tensors of more than one element that reach an output, without BatchNorm's
            running statistics) that get a gradient, not all zero in their tensor; trainable: at least 95 %, and all are finite
`--ratio` prunes each graph first, so that nodes added by pruning are converted too. Exit status 1 if a graph fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], Sequence[Any]]
EQUAL, TRAINS = 1e-4, 0.95
SMALLEST = 0.02  # floor for the largest output: onnxruntime's sigmoid errs by 1e-7 absolute, however small its result
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True)
class Row:
    """The result for one graph.

    Attributes:
        error: NaN if the graph did not convert.
        rounding: change of onnxruntime's outputs when it optimises the graph; 0 if `error` is small.
        by_node: the error of the worst single node; NaN if `error` is small, or single nodes do not convert.
        trained: share of the weights that get a gradient; NaN if a gradient is not finite.
        why: the first failure.
        seconds: time for conversion, and one forward and backward pass.
    """

    name: str
    error: float
    rounding: float
    by_node: float
    trained: float
    why: str
    seconds: float

    @property
    def converts(self) -> bool:
        """Whether a module was built and ran."""
        return not np.isnan(self.error)

    @property
    def equal(self) -> bool:
        """Whether it computes what onnxruntime computes."""
        return self.error <= max(EQUAL, 3 * self.rounding) or self.by_node <= EQUAL

    @property
    def trains(self) -> bool:
        """Whether its weights get gradients."""
        return self.trained >= TRAINS


def ours(model: ModelProto) -> tuple[Run, Any]:
    """Our own table of operators."""
    module = importlib.import_module("onnxprune.training.converter.module").Module(model)
    return lambda feeds: list(module(feeds).values()), module


def onnx2torch(model: ModelProto) -> tuple[Run, Any]:
    """The package onnx2torch."""
    return _by_position(importlib.import_module("onnx2torch").convert(model), model)


def onnx2pytorch(model: ModelProto) -> tuple[Run, Any]:
    """The package onnx2pytorch; `experimental` lets it take batches of more than one."""
    return _by_position(importlib.import_module("onnx2pytorch").ConvertModel(model, experimental=True), model)


def _by_position(module: Any, model: ModelProto) -> tuple[Run, Any]:
    import torch

    module.eval()
    names = [v.name for v in inputs_of(model)]

    def run(feeds: Feeds) -> Sequence[Any]:
        found = module(*(torch.from_numpy(feeds[n]) for n in names))
        return found if isinstance(found, (list, tuple)) else [found]

    return run, module


def inputs_of(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that must be fed."""
    stored = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in stored]


def feeds_for(model: ModelProto) -> Feeds:
    """Seeded inputs: open sizes become 1, 3 channels, 64 rows and 128 columns; integers are small."""
    rng, feeds = np.random.default_rng(0), {}
    for v in inputs_of(model):
        dims = v.type.tensor_type.shape.dim
        shape = [d.dim_value if d.dim_value > 0 else (1, 3, 64, 128)[min(k, 3)] for k, d in enumerate(dims)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
        values = rng.integers(0, 4, shape) if dtype.kind in "iub" else rng.standard_normal(shape)
        feeds[v.name] = values.astype(dtype)
    return feeds


def expected(model: ModelProto, feeds: Feeds, optimised: bool = False) -> list[NDArray[Any]]:
    """onnxruntime's outputs, without optimisations or with all of them."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def difference(found: Sequence[Any], wanted: Sequence[NDArray[Any]]) -> float:
    """Largest difference over the largest value, for the worst output."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        a = a if isinstance(a, np.ndarray) else a.detach().cpu().numpy()
        if a.shape != b.shape:
            raise ValueError(f"an output has shape {a.shape}, onnxruntime's has {b.shape}")
        finite = np.isfinite(b)
        scale = max(np.abs(b[finite]).max(initial=0), SMALLEST)
        worst = max(worst, float(np.abs(a.astype(np.float64) - b)[finite].max(initial=0) / scale))
    return worst


def node_by_node(model: ModelProto, feeds: Feeds, convert: Callable[[ModelProto], tuple[Run, Any]]) -> tuple[float, str]:
    """The largest error of a single node given onnxruntime's own values, and its name; NaN if a node does not convert."""
    everything = ModelProto()
    everything.CopyFrom(model)
    names = [name for n in model.graph.node for name in n.output if name]
    del everything.graph.output[:]
    everything.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    values = {**feeds, **dict(zip(names, expected(everything, feeds), strict=True))}
    values |= {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    worst, where = 0.0, ""
    for n in model.graph.node:
        reads = [name for name in dict.fromkeys(n.input) if name]
        if n.op_type != "Constant" and reads:
            try:
                run = convert(_alone(model, n, values, reads))[0]
                error = difference(run({k: values[k] for k in reads[:1]}), [values[n.output[0]]])
            except Exception:  # a converter may need weights in their original place
                return float("nan"), "?"
            worst, where = max((worst, where), (error, f"{n.op_type} {n.name or n.output[0]}"))
    return worst, where


def _alone(model: ModelProto, node: onnx.NodeProto, values: Feeds, reads: Sequence[str]) -> ModelProto:
    """A model of one node: its first input is fed, the rest are stored."""
    info = onnx.helper.make_tensor_value_info
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in reads}
    stored = [onnx.numpy_helper.from_array(values[name], name) for name in reads[1:]]
    inputs = [info(name, kinds[name], values[name].shape) for name in reads[:1]]
    outputs = [onnx.helper.make_empty_tensor_value_info(node.output[0])]
    graph = onnx.helper.make_graph([node], "alone", inputs, outputs, stored)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def stored_numbers(model: ModelProto) -> int:
    """How many numbers training could change: those that reach an output other than through running statistics."""
    producers = {name: n for n in model.graph.node for name in n.output}
    reached, todo = set(), [v.name for v in model.graph.output]
    while todo:
        name = todo.pop()
        if name and name not in reached:
            reached.add(name)
            node = producers.get(name)
            if node is not None:
                todo += node.input[:3] if node.op_type == "BatchNormalization" else node.input
    tensors = {t.name: t for t in model.graph.initializer}
    tensors |= {n.output[0]: a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    sizes = (int(np.prod(t.dims)) for name, t in tensors.items() if name in reached and t.data_type in FLOATS)
    return sum(size for size in sizes if size > 1)


def trained(outputs: Sequence[Any], module: Any, total: int) -> float:
    """The share of `total` numbers reached by a backward pass from randomly weighted outputs; NaN if not finite."""
    import torch

    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator)).sum() for o in outputs if o.is_floating_point() and o.requires_grad
    )
    if not torch.is_tensor(loss):
        return 0.0
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [(p, p.grad) for p in module.parameters() if p.grad is not None]
    if not all(bool(torch.isfinite(g).all()) for _, g in gradients):
        return float("nan")
    return float(sum(p.numel() for p, g in gradients if bool(g.any()) and p.numel() > 1) / max(total, 1))


def measure(name: str, model: ModelProto, convert: Callable[[ModelProto], tuple[Run, Any]]) -> Row:
    """One row of the table; exceptions are recorded in it."""
    feeds = feeds_for(model)
    wanted = expected(model, feeds)
    start, error, rounding, by_node, share, worst = time.perf_counter(), float("nan"), 0.0, float("nan"), float("nan"), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run, module = convert(model)
            outputs = run(feeds)
            error = difference(outputs, wanted)
            share = trained(outputs, module, stored_numbers(model))
        if error > EQUAL:
            rounding = difference(expected(model, feeds, optimised=True), wanted)
            by_node, worst = node_by_node(model, feeds, convert)
        why = "" if share >= TRAINS else "a gradient is not finite" if np.isnan(share) else "weights without gradient"
    except Exception as e:  # every failure belongs in the table
        why = f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"[:150].replace("|", "/")
    row = Row(name, error, rounding, by_node, share, why, time.perf_counter() - start)
    return row if row.equal or not row.converts else replace(row, why=f"differs most at {worst}")


def models(options: argparse.Namespace) -> Iterator[tuple[str, ModelProto]]:
    """Each graph with its name, pruned on request."""
    found: list[tuple[Path, Any]] = []
    for place in options.places:
        files = sorted([*place.glob("*.onnx.gz"), *place.glob("*.onnx")]) if place.is_dir() else [place]
        hydrate = _hydrate(place) if place.is_dir() and (place / "hydrate.py").exists() else onnx.load
        found += [(f, hydrate) for f in files if fnmatch.fnmatch(f.name, options.only)]
    for file, load in found[:: options.every]:
        model = load(file)
        if options.ratio:
            import onnxprune

            cut: dict[str, Any] = {
                "scope": "local",
                "criterion": "l2",
                "align": "none",
                "recover": "none",
                "verify": False,
                "bench": False,
            }
            model = onnxprune.prune(model, options.ratio, **cut).model
        yield file.name.removesuffix(".gz").removesuffix(".onnx"), model


def _hydrate(zoo: Path) -> Any:
    spec = importlib.util.spec_from_file_location("hydrate", zoo / "hydrate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.hydrate


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path)
    parser.add_argument("--with", dest="converter", choices=["ours", "onnx2torch", "onnx2pytorch"], default="ours")
    parser.add_argument("--only", default="*")
    parser.add_argument("--every", type=int, default=1, help="take every n-th graph")
    parser.add_argument("--ratio", type=float, default=0.0, help="prune this fraction of the channels first")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    lines = ["| graph | error | optimised | by node | trained | seconds | failure |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    rows = []
    for name, model in models(options):
        row = measure(name, model, globals()[options.converter])
        rows.append(row)
        more = (f"{x:.0e}" if x > 0 else "" for x in (row.rounding, row.by_node))
        lines.append(f"| {name} | {row.error:.0e} | {' | '.join(more)} | {row.trained:.0%} | {row.seconds:.1f} | {row.why} |")
        print(lines[-1], flush=True)
        gc.collect()
    counts = [sum(r.converts for r in rows), sum(r.equal for r in rows), sum(r.equal and r.trains for r in rows)]
    lines.append(
        f"\n{options.converter}: {len(rows)} graphs; {counts[0]} convert and run, {counts[1]} equal onnxruntime, "
        f"{counts[2]} of these trainable; {sum(r.error <= EQUAL for r in rows)} have an error of at most {EQUAL:g} end to end"
    )
    print(lines[-1])
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if rows and counts[2] == len(rows) else 1)


if __name__ == "__main__":
    main()
