# SPDX-License-Identifier: Apache-2.0
"""What a recovery may not change is detected before anything is written, and again when the files are verified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.errors import VerificationError
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.methods import Task, recover
from onnxprune.types import Progress
from tests.cases.commands import Capture, files, refused
from tests.cases.nets import SMALL, write
from tests.cases.text import model, stored

NET = SMALL.replace("=> (float[N,5] y)", "=> (float[N,5] y, int64[3] o) <int64[3] ids = {4, 5, 6}>").replace(
    "p = Global", "o = Identity(ids)  p = Global"
)
"""The small network, with a second output that is constant."""


def another_operator(m: ModelProto) -> None:
    next(n for n in m.graph.node if n.op_type == "Relu").op_type = "Tanh"


def other_integers(m: ModelProto) -> None:
    stored(m)["ids"].CopyFrom(onnx.numpy_helper.from_array(np.array([4, 6, 5]), "ids"))


def no_numbers(m: ModelProto) -> None:
    w = stored(m)["w4"]
    w.CopyFrom(onnx.numpy_helper.from_array(np.full(w.dims, np.inf, np.float32), "w4"))


def an_unlisted_bias(m: ModelProto) -> None:
    m.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(5, np.float32), "bias"))
    m.graph.node[-1].input.append("bias")


CHANGES: dict[str, tuple[str, Callable[[ModelProto], None]]] = {
    "node": ("changed node Relu", another_operator),
    "integers": ("'ids' of the recovered model has other values", other_integers),
    "infinity": ("'w4' of the recovered model has a new value that is not finite", no_numbers),
    "addition": ("changed the inputs of Gemm", an_unlisted_bias),
}


@pytest.mark.parametrize(("message", "change"), CHANGES.values(), ids=CHANGES)
def test_a_recovery_that_breaks_its_contract_is_refused(
    message: str, change: Callable[[ModelProto], None], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiling(task: Task, progress: Progress) -> Fitted:
        spoilt = ModelProto()
        spoilt.CopyFrom(task.pruned)
        change(spoilt)
        return Fitted(spoilt)

    spoilt = partial(recover, ways={"bias": (("bias", spoiling),)})
    monkeypatch.setattr("onnxprune.recovery.methods.recover", spoilt)
    path = write(tmp_path, model(NET))
    before = files(tmp_path)
    options = ["--ratio", "0.5", "--recover", "bias", "--data", "random", "--no-bench"]
    said = refused(["prune", str(path), *options, "--output", str(tmp_path / "out.onnx")], capsys, status=1)
    assert message in said
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", [another_operator, other_integers, no_numbers])
def test_a_changed_file_of_a_recovered_model_is_detected(change: Callable[[ModelProto], None], tmp_path: Path) -> None:
    path = write(tmp_path, model(NET))
    result = onnxprune.prune(path, 0.5, data="random", recover="bias", bench=False, align="none")
    assert result.plan.recovered == "bias"
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json")
    spoilt = onnx.load(tmp_path / "out.onnx")
    change(spoilt)
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    with pytest.raises(VerificationError, match=r"of the recovered model|the recovered model changed"):
        onnxprune.verify_files(path, tmp_path / "spoilt.onnx", tmp_path / "plan.json")
