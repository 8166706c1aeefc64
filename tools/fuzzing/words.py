# SPDX-License-Identifier: Apache-2.0
"""Odd command lines, on files that are right."""

from __future__ import annotations

import json

from fuzzing.arrays import arrays, packed
from fuzzing.blobs import damaged
from fuzzing.cases import FIFO, LINK, SOCKET, Case
from fuzzing.classifier import classifier, cut, plan
from fuzzing.seeds import generator

NUMBERS = (
    *"0.5 0 1 -1 -0 1.5 0.999999 nan inf -inf 1e400 1e-320 ² ½ ٣ 1_000 0x10 0,5".split(),
    *"1/2 50% -50% 101% 0% % %% 5M 5MiB -5M 1e3k".split(),
    *"12ms 0ms true None [] {} ' é -- - * 0:1:0.1 0.5: 1,2 , auto none".split(),
    *("", " ", "9" * 30, "9" * 5000, "50 %", '"', "\n", "\t1", "\x1b[31m1", "1\udcff"),
)
PATHS = (
    *"m.onnx c.onnx p.json d.npz out.onnx old.onnx sub sub/ sub/out.onnx none/out.onnx . .. - /".split(),
    *"/proc/self/x pipe socket link.onnx dangling.onnx loop m.onnx/ m.onnx/x ./m.onnx sub/../m.onnx".split(),
    *"out.onnx.data é.onnx ~ $HOME *".split(),
    *"out.onnx.zst out.zst out.txt .onnx .hidden http://x/y file:///etc/passwd empty.onnx text.onnx nul.onnx".split(),
    *("", " ", "x" * 250, "x" * 300 + ".onnx", "a\nb.onnx", "\x1b[31m.onnx", "\udcff.onnx", "m.onnx\t"),
)
NAMES = (*"ccprune l1 L1 bn_scale obs none x global local é auto outer w1=outer =inner * [ json".split(), "", "\n")
USER = b"""
import os, sys
import numpy as np

def good():
    for k in range(8):
        yield {"x": np.zeros((1, 3, 8, 8), "f4") + k, "label": [k % 4]}

def mapping(): return {"x": np.zeros((4, 3, 8, 8), "f4")}
def words(): return "some text"
def ragged(): return [{"x": [[1, 2], [3]]}]
def number(): return 3
def nothing(): return None
def exits(*given): sys.exit(0)
def raises(*given): raise BaseException("a\\nb")
def stops(*given): raise KeyError()
def mixed(): yield from ({"x": np.zeros((1, 3, 8, 8), "f4")}, {"x": np.zeros((1, 3, 9, 9), "f4")}, {}, None, 3)
def prints(*given): print("hello"); os.write(1, b"\\xff"); return 0.5
def nan(outputs, labels): return float("nan")
def text(outputs, labels): return "good"
def array(outputs, labels): return np.zeros(3)
def one(a): return 1
def many(a, b, c, d): return 1
def huge(outputs, labels): return 10 ** 400
"""
"""A module with functions for --data and --metric."""
FUNCTIONS = (
    "good mapping words ragged number nothing exits raises stops mixed prints nan text array one many huge missing".split()
)
SOURCES = (
    *"d.npz random synthetic Random d.npz:x os:getcwd json:loads nothing:x os: :x os:path os.path:nothing sys:exit".split(),
    *"builtins:dict builtins:list builtins:print time:time string:digits".split(),
    *(f"user:{name}" for name in FUNCTIONS),
)
SHAPES = (*"1x3x8x8 x:1x3x8x8 1x3 0x3x8x8 -1x3x8x8 x: : y:1x1 1x3x9x9 ²x3x8x8 99999999999x3x8x8 1x3x8x8x1 axb".split(), "")
TIMES = (*"2s 1 0 -1 0s nan ²s 1h2 s 1e400 0.5s 1x".split(), "", "inf s", "2 s", "9" * 400)
COUNTED = """--ratio --share --zero --max-loss --macs --params --size --memory --samples --seed --rounds --threads --align
    --unify --block --ratios --jobs --trials --latency"""
NAMED = """--criterion --scope --widths --normalise --carrier --include --exclude --recover --format --runtime --pack --study"""
PLACES = "-o --output --plan --picture --scores --labels --layer-ratios --profile --work --storage"
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(COUNTED.split(), NUMBERS),
    **dict.fromkeys(PLACES.split(), PATHS),
    **dict.fromkeys(NAMED.split(), NAMES),
    "--time-budget": TIMES,
    "--data": (*SOURCES, *PATHS),
    "--metric": SOURCES,
    "--preprocess": (*NAMES, "size=8x8"),
    "--input-shape": SHAPES,
}
"""Option -> odd values."""
DATA = "--data --labels --samples --seed --metric --preprocess --input-shape"
PRUNE = f"""--ratio --macs --params --size --memory --latency --max-loss --criterion --scores --scope --widths --normalise
    --layer-ratios --align --profile --include --exclude --carrier --recover --rounds --time-budget --work --unify --share
    --zero --runtime --threads -o --output --pack --plan --picture --format {DATA}"""
KNOWN = {
    "m.onnx": PRUNE,
    "prune": PRUNE,
    "apply": "--input-shape --threads -o --pack --plan --picture --format",
    "unify": f"--block --share --zero --scope --exclude --runtime {DATA} --recover --time-budget --work --threads -o --plan",
    "inspect": "--carrier --input-shape --format",
    "explain": "--carrier --input-shape",
    "verify": "--input-shape --format",
    "sensitivity": f"--ratios --jobs --max-loss --layer-ratios -o {DATA} --time-budget --format",
    "bench": "--input-shape --threads --format --seed",
    "search": f"--trials --time-budget --storage --study -o --picture --macs --latency --scope --layer-ratios --profile {DATA}",
}
"""Command -> its options."""
GOOD = """--ratio 0.3 --macs 50% --params 60% --max-loss 50% --scope local --align none --samples 4 --time-budget 2s --seed 1
    --threads 2 -o out.onnx --plan out.json --picture out.svg --data d.npz --format json --recover none --unify 16 --include w2
    --exclude w1 --work p.json --criterion l1""".split()
FLAGS = """--force --strict --no-verify --no-bench --depth --all-layers --allow-renormalising --dry-run --other-machine --help
    -h --version --bench --verify""".split()
EXTRA = "--ratoi -x -- --- prunee extra -r --data @m.onnx".split()
QUICK = "m.onnx --ratio 0.5"
COMMANDS = (
    *(QUICK,) * 8,
    "prune m.onnx --ratio 0.5",
    "apply m.onnx p.json",
    "unify m.onnx",
    "inspect m.onnx",
    "explain m.onnx w2",
    "verify m.onnx c.onnx p.json",
    "sensitivity m.onnx --data d.npz --time-budget 2s",
    "profile --ratio",
    "bench m.onnx c.onnx",
    "search m.onnx --data d.npz --macs 50% --time-budget 1s --trials 2",
    "m.onnx --macs 50% --params 60%",
    "m.onnx --data d.npz --max-loss 5%",
    "m.onnx --ratio 0.5 --data user:good",
    "m.onnx --ratio 0.5 --data d.npz --metric user:nan",
    "",
)


def options(name: str, seed: int) -> Case:
    """A command line with one to three odd options or arguments."""
    rng = generator(seed, "options", name)
    words = rng.choice(COMMANDS).split()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.7:
            known = KNOWN.get(words[0], "").split() if words else []
            option = rng.choice(known if known and rng.random() < 0.9 else list(VALUES))
            good = option in GOOD and rng.random() < 0.35
            value = GOOD[GOOD.index(option) + 1] if good else rng.choice(VALUES[option])
            words += [f"{option}={value}"] if rng.random() < 0.2 and option[:2] == "--" else [option, value]
        elif kind < 0.8:
            words.append(rng.choice(FLAGS))
        elif kind < 0.88 and words:
            words[rng.randrange(len(words))] = rng.choice(PATHS)
        elif kind < 0.92 and words:
            del words[rng.randrange(len(words))]
        elif kind < 0.96:
            words.insert(rng.randrange(len(words) + 1), rng.choice(EXTRA))
        else:
            rng.shuffle(words)
    command = words[0] if words else ""
    if "--no-bench" not in words and command in ("m.onnx", "prune", "apply", "unify") and rng.random() < 0.9:
        words.append("--no-bench")
    if not any(word.startswith("--time-budget") for word in words) and command in ("m.onnx", "prune", "unify", "search"):
        words += ["--time-budget", "2s"]
    files = {
        "m.onnx": classifier(),
        "c.onnx": cut(),
        "p.json": json.dumps(plan()).encode(),
        "d.npz": packed(arrays()),
        "old.onnx": b"old",
        "out.onnx.data": b"mine",
        "sub/": b"",
        "pipe": FIFO,
        "socket": SOCKET,
        "empty.onnx": b"",
        "link.onnx": LINK + b"m.onnx",
        "dangling.onnx": LINK + b"nowhere",
        "loop": LINK + b"loop",
        "text.onnx": b"hello\n",
        "nul.onnx": damaged(rng, classifier())[0],
        "user.py": USER,
    }
    return Case(f"options/{name}", " ".join(words)[:200].encode("unicode_escape").decode(), files, tuple(words))
