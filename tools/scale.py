#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How time and memory scale: seconds of analysis by nodes, and the peak memory of a whole cut by the size of the file.

usage: python tools/scale.py nodes [1000 2000 5000 10000 20000]
       python tools/scale.py zoo FOLDER                 analysis of every graph; exit status 1 if one takes over --limit seconds
       python tools/scale.py memory [100 1000 3000] [--ratio 0.5] [--folder DIR]        megabytes; needs twice that on disk
Networks are generated: residual blocks of convolutions, and transformer blocks with the shape arithmetic that exporters
write; for memory, blocks of two large products. From 2 GB on, and with `--external`, weights are in a separate file. Peak
memory is what the system counts for the whole process (maximum resident set), Python and its libraries included.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from figures import processor
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from onnxprune.analysis.analyse import analyse
from onnxprune.ir.facts import read_graph
from onnxprune.ir.protobuf import INLINE_LIMIT, write
from onnxprune.ir.tensors import FileRange, leave


def from_text(text: str) -> ModelProto:
    """A model from the text of its graph; inputs whose name starts with `w` become weights."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]>\n{text}')
    rng = np.random.default_rng(0)
    for value in [v for v in made.graph.input if v.name.startswith("w")]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape, np.float32), value.name))
        made.graph.input.remove(value)
    return made


def residual(nodes: int) -> ModelProto:
    """Blocks of seven nodes: Conv, BatchNormalization, Relu, Conv, BatchNormalization, Add, Relu."""
    lines, weights, now = [], [], "a"
    for k in range(nodes // 7):
        weights.append(f"float[16,16,3,3] wa{k}, float[16,16,3,3] wb{k}")
        weights.append(", ".join(f"float[16] {w}{k}{s}" for s in "ab" for w in ("ws", "wt", "wm", "wvar")))
        norm = "{y} = BatchNormalization({x}, ws{k}{s}, wt{k}{s}, wm{k}{s}, wvar{k}{s})"
        lines += [
            f"c{k} = Conv <pads = [1,1,1,1]> ({now}, wa{k})",
            norm.format(x=f"c{k}", y=f"n{k}", k=k, s="a"),
            f"r{k} = Relu(n{k})  d{k} = Conv <pads = [1,1,1,1]> (r{k}, wb{k})",
            norm.format(x=f"d{k}", y=f"m{k}", k=k, s="b"),
            f"s{k} = Add(m{k}, {now})  t{k} = Relu(s{k})",
        ]
        now = f"t{k}"
    head, tail = "a = Conv <pads = [1,1,1,1]> (x, w0)", f"y = Conv({now}, w9)"
    inputs = ", ".join(["float[N,3,8,8] x", "float[16,3,3,3] w0", "float[4,16,1,1] w9", *weights])
    body = "\n".join([head, *lines, tail])
    return from_text(f"g ({inputs}) => (float[N,4,8,8] y) {{ {body} }}")


def transformer(nodes: int) -> ModelProto:
    """Blocks of thirty nodes: attention with computed shapes, as TorchScript writes `view`, then an MLP."""
    lines, weights, now = [], [], "x"
    for k in range(nodes // 30):
        weights += [f"float[16,16] w{p}{k}" for p in "qkvo"] + [f"float[16] ws{k}, float[16] wt{k}"]
        weights += [f"float[16,32] wu{k}, float[32,16] wd{k}"]
        lines.append(f"h{k} = LayerNormalization({now}, ws{k}, wt{k})")
        lines.append(f"z{k} = Shape(h{k})  b{k} = Gather(z{k}, zero)  l{k} = Gather(z{k}, one)")
        lines.append(f"bu{k} = Unsqueeze(b{k}, zeros)  lu{k} = Unsqueeze(l{k}, zeros)")
        lines.append(f"sh{k} = Concat <axis = 0> (bu{k}, lu{k}, four, four)")
        for p in "qkv":
            lines.append(f"{p}{k} = MatMul(h{k}, w{p}{k})  {p}r{k} = Reshape({p}{k}, sh{k})")
            order = "[0,2,3,1]" if p == "k" else "[0,2,1,3]"
            lines.append(f"{p}t{k} = Transpose <perm = {order}> ({p}r{k})")
        lines.append(f"a{k} = MatMul(qt{k}, kt{k})  p{k} = Softmax <axis = -1> (a{k})  o{k} = MatMul(p{k}, vt{k})")
        lines.append(f"ot{k} = Transpose <perm = [0,2,1,3]> (o{k})  sj{k} = Concat <axis = 0> (bu{k}, lu{k}, sixteen)")
        lines.append(f"oj{k} = Reshape(ot{k}, sj{k})  oo{k} = MatMul(oj{k}, wo{k})  e{k} = Add(oo{k}, {now})")
        lines.append(f"u{k} = MatMul(e{k}, wu{k})  g{k} = Relu(u{k})  d{k} = MatMul(g{k}, wd{k})  f{k} = Add(d{k}, e{k})")
        now = f"f{k}"
    consts = "int64 zero = {0}, int64 one = {1}, int64[1] zeros = {0}, int64[1] four = {4}, int64[1] sixteen = {16}"
    inputs = ", ".join(["float[N,L,16] x", "float[16,4] w9", *weights])
    body = "\n".join([*lines, f"y = MatMul({now}, w9)"])
    return from_text(f"g ({inputs}) => (float[N,L,4] y) <{consts}> {{ {body} }}")


KINDS: dict[str, Callable[[int], ModelProto]] = {"residual": residual, "transformer": transformer}


def seconds_of_analysis(model: ModelProto) -> float:
    """From a model in memory to its groups, in processor seconds, so that other processes do not count."""
    start = time.process_time()
    analyse(read_graph(model))
    return time.process_time() - start


def by_nodes(counts: list[int]) -> None:
    """The table of seconds by nodes."""
    print("| network | nodes | seconds | ms per node |\n|---|---|---|---|")
    for kind, make in KINDS.items():
        for count in counts:
            model = make(count)
            seconds = seconds_of_analysis(model)
            nodes = len(model.graph.node)
            print(f"| {kind} | {nodes:,} | {seconds:.2f} | {1e3 * seconds / nodes:.2f} |", flush=True)


def without_weights(path: Path) -> ModelProto:
    """A weightless graph with zeros for weights: the analysis reads none of them."""
    model = ModelProto.FromString(gzip.decompress(path.read_bytes()))
    for t in model.graph.initializer:
        if t.data_type == TensorProto.FLOAT and not (t.raw_data or t.float_data):
            t.raw_data = bytes(4 * math.prod(t.dims))
    return model


def over_a_zoo(folder: Path, limit: float) -> bool:
    """The slowest graphs of a folder; whether all are within the limit."""
    found = []
    for path in sorted(folder.glob("*.onnx.gz")):
        model = without_weights(path)
        found.append((seconds_of_analysis(model), len(model.graph.node), path.name.removesuffix(".onnx.gz")))
        print(f"\r{len(found)} graphs", end="", file=sys.stderr, flush=True)
    found.sort(reverse=True)
    print("\n| graph | nodes | seconds |\n|---|---|---|")
    for seconds, nodes, name in found[:8]:
        print(f"| {name} | {nodes:,} | {seconds:.2f} |")
    over = sum(seconds > limit for seconds, _, _ in found)
    median = float(np.median([f[0] for f in found]))
    print(f"\nanalysis of {len(found)} graphs: median {median:.2f} s, {over} over {limit:g} s")
    return not over


WIDE, NARROW = 8192, 2048


def wide(megabytes: int, data: Path) -> ModelProto:
    """Residual blocks of two products (2,048 -> 8,192 -> 2,048), their weights written to `data` one at a time."""
    graph = helper.make_graph([], "wide", [], [])
    now, rng = "x", np.random.default_rng(0)
    with data.open("wb") as file:
        for k in range(max(1, round(megabytes * 1e6 / (8 * WIDE * NARROW)))):
            for name, shape in ((f"up{k}", (NARROW, WIDE)), (f"down{k}", (WIDE, NARROW))):
                values = rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))
                tensor = graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
                leave(tensor, FileRange(str(data), file.tell(), values.nbytes))
                file.write(values.tobytes())
            graph.node.extend(_block(k, now))
            now = f"e{k}"
    graph.node.append(helper.make_node("Identity", [now], ["y"]))
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, NARROW]))
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, NARROW]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _block(k: int, now: str) -> Iterator[NodeProto]:
    yield helper.make_node("MatMul", [now, f"up{k}"], [f"u{k}"])
    yield helper.make_node("Relu", [f"u{k}"], [f"r{k}"])
    yield helper.make_node("MatMul", [f"r{k}", f"down{k}"], [f"d{k}"])
    yield helper.make_node("Add", [f"d{k}", now], [f"e{k}"])


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a process that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6


STEPS = {"cut": ("--no-verify", "--no-bench"), "cut and verify": ("--no-bench",), "cut, verify and time": ()}


def by_size(sizes: list[int], ratio: str, external: bool, place: str | None) -> None:
    """The table of peak memory by size of the file."""
    print("| file | weights in | steps | seconds | peak memory | peak / file |\n|---|---|---|---|---|---|")
    base = measured([sys.executable, "-c", "import onnxprune, onnxruntime"])[1]
    for megabytes in sizes:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            path, data = Path(folder) / "wide.onnx", Path(folder) / "wide.data"
            model = wide(megabytes, data)
            outside = external or megabytes * 1e6 > INLINE_LIMIT
            if outside:
                for t in model.graph.initializer:
                    t.external_data[0].value = data.name
                path.write_bytes(model.SerializeToString())
            else:
                write(model, path)
                data.unlink()
            size = sum(f.stat().st_size for f in Path(folder).iterdir()) / 1e6
            for steps, options in STEPS.items():
                out = ["-o", str(Path(folder) / "out.onnx"), "--force"]
                seconds, peak = measured(
                    [sys.executable, "-m", "onnxprune", str(path), "--ratio", ratio, "--recover", "none", *options, *out]
                )
                where = "separate file" if outside else "the file"
                print(
                    f"| {size:,.0f} MB | {where} | {steps} | {seconds:.1f} | {peak:,.0f} MB | {peak / size:.2f}x |", flush=True
                )
    print(f"\nratio {ratio}; Python with its libraries alone takes {base:,.0f} MB; the bound is 2.5 times the file")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("nodes", "zoo", "memory"))
    parser.add_argument("values", nargs="*")
    parser.add_argument("--ratio", default="0.5")
    parser.add_argument("--external", action="store_true")
    parser.add_argument("--folder", help="the folder for generated models")
    parser.add_argument("--limit", type=float, default=3.0)
    options = parser.parse_args()
    print(f"{processor()}\n")
    if options.what == "nodes":
        by_nodes([int(v) for v in options.values] or [1000, 2000, 5000, 10000, 20000])
    elif options.what == "memory":
        by_size([int(v) for v in options.values] or [100, 1000, 3000], options.ratio, options.external, options.folder)
    elif not over_a_zoo(Path(options.values[0]), options.limit):
        sys.exit(1)


if __name__ == "__main__":
    main()
