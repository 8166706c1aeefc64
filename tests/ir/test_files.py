# SPDX-License-Identifier: Apache-2.0
"""Input files are checked, and output files are written completely or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError, OptionError, OutputError
from onnxprune.ir.files import load
from onnxprune.ir.placing import check_output
from onnxprune.ir.saving import save
from tests.cases.nets import external, pruned, small, write


def one_line(e: BaseException, path: Path) -> bool:
    return "\n" not in str(e) and str(path) in str(e)


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no such file"),
    "empty": (b"", "is empty"),
    "text": (b"hello, this is not a model\n" * 9, "not an ONNX model"),
    "random bytes": (np.random.default_rng(0).bytes(4000), "not an ONNX model"),
    "a valid message of another kind": (onnx.TensorProto(dims=[3]).SerializeToString(), "not an ONNX model"),
}


@pytest.mark.parametrize(("content", "why"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_a_model_is_reported_in_one_line(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=why) as e:
        load(path)
    assert one_line(e.value, path)


def test_a_folder_instead_of_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_reported_in_one_line(keep: float, tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError) as e:
        load(path)
    assert one_line(e.value, path)


def old_ir(m: ModelProto) -> None:
    m.ir_version = 2


def new_ir(m: ModelProto) -> None:
    m.ir_version = onnx.IR_VERSION + 1


def old_opset(m: ModelProto) -> None:
    m.opset_import[0].version = 8


def new_opset(m: ModelProto) -> None:
    m.opset_import[0].version = onnx.defs.onnx_opset_version() + 1


def unknown_input(m: ModelProto) -> None:
    m.graph.node[2].input[0] = "missing"


def unknown_output(m: ModelProto) -> None:
    m.graph.output[0].name = "missing"


def short_weight(m: ModelProto) -> None:
    m.graph.initializer[0].raw_data = m.graph.initializer[0].raw_data[:-4]


def no_nodes(m: ModelProto) -> None:
    del m.graph.node[:]


def no_outputs(m: ModelProto) -> None:
    del m.graph.output[:]


SPOILS: list[tuple[Callable[[ModelProto], None], str]] = [
    (old_ir, "IR version 2, expected 3 to"),
    (new_ir, "update onnx"),
    (old_opset, "opset 8, expected 9 to"),
    (new_opset, "update onnx"),
    (unknown_input, "reads 'missing'"),
    (unknown_output, "output 'missing' is not produced by any node"),
    (short_weight, "bytes, expected"),
    (no_nodes, "has no nodes"),
    (no_outputs, "has no outputs"),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILS, ids=[s.__name__ for s, _ in SPOILS])
def test_an_unsupported_model_is_reported_in_one_line(spoil: Callable[[ModelProto], None], why: str, tmp_path: Path) -> None:
    net = small()
    spoil(net)
    path = tmp_path / "m.onnx"
    path.write_bytes(net.SerializeToString())
    with pytest.raises(ModelError, match=why) as e:
        load(path)
    assert one_line(e.value, path)


def test_external_data_is_read_and_written(tmp_path: Path) -> None:
    path, out = external(tmp_path), tmp_path / "out.onnx"
    result = pruned(path, 0.5, align="none")
    result.save(out)
    assert (tmp_path / "out.onnx.data").exists()
    assert any(t.data_location == TensorProto.EXTERNAL for t in onnx.load(out, load_external_data=False).graph.initializer)
    inside = pruned(small(), 0.5, align="none").model
    assert {t.name: onnx.numpy_helper.to_array(t).tolist() for t in load(out).model.graph.initializer} == {
        t.name: onnx.numpy_helper.to_array(t).tolist() for t in inside.graph.initializer
    }


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"'net\.bin', which is missing; copy it next to the model"):
        load(path)


def test_truncated_external_data_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:-10])
    with pytest.raises(ModelError, match="which is truncated: got"):
        load(path)


@pytest.mark.parametrize("place", ["../net.bin", "/etc/hostname", ""])
def test_external_data_outside_the_folder_is_not_read(place: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path.parent / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes())
    net = onnx.load(path, load_external_data=False)
    for t in net.graph.initializer:
        for entry in t.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(net.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(path)


class FullDisk:
    """A file on a full disk."""

    def __init__(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("replaces", [False, True])
def test_a_full_disk_leaves_nothing_behind(replaces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, plan = tmp_path / "out.onnx", tmp_path / "out.json"
    if replaces:
        out.write_text("what was there")
    # the model is written; the plan no longer fits
    monkeypatch.setattr(Path, "write_text", FullDisk)
    with pytest.raises(OutputError, match=r"No space left on device; nothing was changed"):
        save(small(), out, [plan], lambda digest: {plan: "{}"})
    assert sorted(p.name for p in tmp_path.iterdir()) == (["out.onnx"] if replaces else [])
    assert not replaces or out.read_bytes() == b"what was there"


def test_the_input_file_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path)
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OptionError, match="is the input itself"):
            check_output(name, True, path)


def test_overwriting_an_output_needs_force(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(OptionError, match="`force`"):
        check_output(path, False)
    check_output(path, True)


def test_an_output_without_a_folder_or_a_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        check_output(tmp_path / "nowhere" / "out.onnx", False)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, True)


def test_an_output_in_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="cannot be written to"):
        check_output(tmp_path / "out.onnx", False)
