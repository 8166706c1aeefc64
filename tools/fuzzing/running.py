# SPDX-License-Identifier: Apache-2.0
"""A case is run: the program on it, onnxruntime on its model, an independent check on its result; each in a forked process."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from fuzzing.arrays import arrays, npy
from fuzzing.cases import Case
from fuzzing.child import SECONDS, Ended, forked, scratch
from fuzzing.outcome import Row, judged, place_of
from fuzzing.seeds import made

TYPES = {
    "float": "f4", "double": "f8", "float16": "f2", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1",
    "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "?",
}  # fmt: skip
"""Element types of inputs, as onnxruntime calls them."""

HEAVY = {"torch", "torchvision", "functorch", "accelerate", "transformers", "sympy", "matplotlib"}
"""What is left to the runs that need it: it makes every fork slow."""
MARK = "imported:"
WARM = (
    ("m.onnx", "--ratio", "0.5", "--no-bench", "--data", "d.npy", "--force", "--recover", "bias"),
    ("m.onnx", "--ratio", "0.5", "--no-bench", "--force", "--format", "json", "--picture", "m.svg"),
    ("unify", "m.onnx", "--no-bench", "--time-budget", "1s"),
    ("explain", "m.onnx", "w2"),
    ("inspect", "m.onnx"),
    ("--nothing",),
)
"""Command lines whose imports are done before any other is run."""


@dataclass(frozen=True)
class Runner:
    """What all runs share.

    Attributes:
        package: the folder that holds the package onnxprune.
        check: a script with `check(original, pruned, plan) -> {"ok": bool, "why": str}`.
        keep: where the files of cases that failed are kept.
        talks: whether what the program says is printed.
        seconds: the limit of one run.
    """

    package: Path
    check: Path | None = None
    keep: Path | None = None
    talks: bool = False
    seconds: float = SECONDS

    def prepare(self) -> None:
        """Import in this process what every run would import, so that a run takes milliseconds. No session is made here."""
        os.environ["COLUMNS"] = "120"
        os.environ.pop("ONNXPRUNE_TRACEBACK", None)
        sys.path.insert(0, str(self.package.resolve()))
        onnxruntime.set_default_logger_severity(4)
        package = importlib.import_module("onnxprune")
        if Path(str(package.__file__)).resolve().parent.parent != self.package.resolve():
            raise SystemExit(f"{self.package}: onnxprune is already imported from {package.__file__}")
        with scratch() as root:
            for path in (root / "tmp", root / "home"):
                path.mkdir()
            (root / "m.onnx").write_bytes(made("classifier").SerializeToString())
            (root / "d.npy").write_bytes(npy(arrays()["x"]))
            for words in WARM:
                ended = forked(lambda words=words: imports(words, root), root, root / "talk")  # type: ignore[misc]
                for name in ended.out.partition(MARK)[2].split():
                    if name.partition(".")[0] not in HEAVY:
                        with contextlib.suppress(ImportError):
                            importlib.import_module(name)
        commands: Any = importlib.import_module("typer.main")
        commands.get_command = cache(commands.get_command)  # half of the time of a short run
        commands.get_command(importlib.import_module("onnxprune.cli.app").app)
        if len([*Path("/proc/self/task").iterdir()]) > 1:
            print("fuzz: a library has started threads; runs may hang for no reason of their own", file=sys.stderr)
        gc.collect()
        gc.freeze()  # so that children do not copy what they only look at

    def run(self, case: Case) -> Row:
        """Run a case in a folder that is removed afterwards."""
        with scratch() as root:
            folder, talk = root / "work", root / "talk"
            for path in (folder, root / "tmp", root / "home"):
                path.mkdir()
            case.write(folder)
            before = snapshot(folder)
            ended = forked(lambda: program(case.arguments, root), folder, talk / "run", self.seconds)
            after, left = snapshot(folder), sorted(p.name for p in (root / "tmp").iterdir())
            row = judged(case, ended, before, after, left if not ended.killed else [])
            row.runs = self._runs(case, folder, talk) if case.model else None
            if row.done:
                row.cut, row.checked = self._result(case, folder, talk, bool(row.runs))
                if row.checked.startswith("not exact"):
                    row.faults.append("not exact")
            if "internal error" in row.faults or "traceback" in row.faults:
                row.where = self._where(case, root / "again", talk)
            elif ended.killed:
                row.where = place_of((talk / "run" / "fault").read_text(errors="replace"))
            if row.faults and self.keep:
                self._keep(case, row, ended)
            if self.talks:
                print(f"{case.name}: {case.what}\nonnxprune {' '.join(case.arguments)}\n{ended.out}{ended.err}{row.as_json()}")
            return row

    def _runs(self, case: Case, folder: Path, talk: Path) -> bool:
        """Whether onnxruntime loads and runs the model."""
        return forked(lambda: execute(case.model), folder, talk / "runs", self.seconds).status == 0

    def _result(self, case: Case, folder: Path, talk: Path, runs: bool) -> tuple[bool, str]:
        """Whether anything was cut, and what the independent check says: empty if there is none."""
        plan, model = folder / "m.pruned.plan.json", folder / "m.pruned.onnx"
        if not plan.is_file() or not model.is_file():
            return False, ""
        with contextlib.suppress(ValueError):
            if not any(json.loads(plan.read_text()).get("kept", {}).values()):
                return False, ""
        if not runs or case.kind != "models":
            return True, ""
        ended = forked(lambda: execute(model.name, "m.onnx"), folder, talk / "result", self.seconds)
        if ended.status:
            return True, f"not exact: {(ended.killed or ended.out or ended.err)[-200:]}"
        if self.check is None or "none" not in case.arguments:
            return True, "runs"
        script = self.check
        ended = forked(lambda: compare(script, "m.onnx", model.name, plan.name), folder, talk / "check", self.seconds)
        return True, "exact" if ended.status == 0 else f"not exact: {ended.out[-200:]}" if ended.status == 1 else "unknown"

    def _where(self, case: Case, root: Path, talk: Path) -> str:
        """Type and place of the exception, from a second run."""
        for path in (root / "work", root / "tmp", root / "home"):
            path.mkdir(parents=True)
        case.write(root / "work")
        ended = forked(
            lambda: program(case.arguments, root, ONNXPRUNE_TRACEBACK="1"), root / "work", talk / "again", self.seconds
        )
        return place_of(ended.err)

    def _keep(self, case: Case, row: Row, ended: Ended) -> None:
        """Store the files of a case that failed, with its command line."""
        assert self.keep is not None
        folder = self.keep / case.name.replace("/", "_").replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with contextlib.suppress(OSError):
            case.write(folder)
        words = json.dumps(case.arguments)
        text = f"{case.name}: {case.what}\n{words}\n{row.as_json()}\n{ended.out[-3000:]}{ended.err[-3000:]}"
        (folder / "case.txt").write_text(text, encoding="utf-8", errors="replace")


def imports(arguments: Sequence[str], root: Path) -> int:
    """Print the modules that a command line imports."""
    before = set(sys.modules)
    program(arguments, root)
    print(MARK, *(name for name in [*sys.modules] if name not in before))
    return 0


def program(arguments: Sequence[str], root: Path, **environment: str) -> int:
    """The command line, with folders of its own for what it keeps elsewhere."""
    os.environ.update(TMPDIR=str(root / "tmp"), HOME=str(root / "home"), XDG_CACHE_HOME=str(root / "home"), **environment)
    tempfile.tempdir = None
    sys.argv = ["onnxprune", *arguments]
    warnings.simplefilter("ignore")  # as the program does where it starts
    run: Any = importlib.import_module("onnxprune.cli.app").run
    return int(run(list(arguments)))


def execute(model: str, like: str = "") -> int:
    """Run a model on seeded inputs: 0 if some size of its dynamic axes works, and outputs are shaped as those of `like`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    sessions = [onnxruntime.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in (model, like) if m]
    error = ""
    for size in (2, 1, 8, 32):
        try:
            made = feeds(sessions[-1], size)
            wanted, *_, found = [[np.shape(y) for y in s.run(None, made)] for s in (sessions[-1], sessions[0])]
        except Exception as e:  # another size of dynamic axes may do
            error = f"{type(e).__name__}: {e}"
            continue
        if wanted != found:
            print(f"outputs of shape {found}, expected {wanted}")
        return int(wanted != found)
    print(error)
    return 1


def feeds(session: Any, size: int) -> dict[str, Any]:
    """Seeded inputs; axes of dynamic size have `size` elements."""
    rng, found = np.random.default_rng(0), {}
    for v in session.get_inputs():
        shape = [n if isinstance(n, int) and n > 0 else size for n in v.shape]
        dtype = np.dtype(TYPES[v.type.removeprefix("tensor(").removesuffix(")")])
        found[v.name] = (rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)).astype(dtype)
    return found


def compare(script: Path, original: str, pruned: str, plan: str) -> int:
    """0 if an independent script finds the cut exact, 1 if not, 2 if it cannot tell."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        said = module.check(original, pruned, plan)
    except (Exception, SystemExit):
        return 2
    print(said)
    return 0 if said["ok"] else 1


def snapshot(folder: Path) -> dict[str, str]:
    """Path -> what lies there: kind, and digest or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode, name = path.lstat().st_mode, str(path.relative_to(folder))
        if stat.S_ISLNK(mode):
            found[name] = f"link {path.readlink()}"
        elif stat.S_ISREG(mode):
            found[name] = f"file {hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            found[name] = f"kind {stat.S_IFMT(mode)}"
    return found
