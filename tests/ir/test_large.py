# SPDX-License-Identifier: Apache-2.0
"""Large models: weights remain in their files, and results equal those of a small model that is read completely."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

import onnxprune
from onnxprune.cli.app import run
from onnxprune.errors import ModelError, OptionError
from onnxprune.ir import files, protobuf, saving, spill, tensors
from onnxprune.ir.files import load, mark, runnable
from onnxprune.ir.placing import check_output
from onnxprune.ir.saving import save
from onnxprune.ir.tensors import FileRange, array_of, leave, length_of, range_of, size_of, slabs, take_all
from tests.cases.nets import external, pruned, small, write
from tests.cases.text import model


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Treat every file as large, and every tensor in it that is not a scalar."""
    set_bounds(monkeypatch, file=1, tensor=8)
    return iter([None])


def set_bounds(patch: pytest.MonkeyPatch, file: int, tensor: int) -> None:
    """Set the number of bytes from which a file, and a tensor in it, counts as large."""
    for module in (files, protobuf, saving, spill, tensors):
        for name, value in (("LARGE_FILE", file), ("LARGE_TENSOR", tensor)):
            if hasattr(module, name):
                patch.setattr(module, name, value)


def cut(source: Any) -> onnxprune.Result:
    return pruned(source, 0.5, align="none")


KINDS = ["float", "float16", "double", "bfloat16", "int64", "int8", "uint8", "bool", "float8e4m3fn", "int4"]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_same_in_memory_and_in_a_file(kind: str, tmp_path: Path) -> None:
    code = TensorProto.DataType.Value(kind.upper())
    size = 4 if kind == "int4" else 8 * onnx.helper.tensor_dtype_to_np_dtype(code).itemsize
    tensor = TensorProto(name="t", data_type=code, dims=[2, 4], raw_data=np.random.default_rng(0).bytes(size))
    if kind == "bool":
        tensor.raw_data = bytes([1, 0] * 4)
    in_file = TensorProto()
    in_file.CopyFrom(tensor)
    (tmp_path / "data").write_bytes(b"before" + tensor.raw_data + b"after")
    leave(in_file, FileRange(str(tmp_path / "data"), 6, size))
    assert array_of(in_file).tobytes() == array_of(tensor).tobytes()
    assert array_of(in_file).dtype == array_of(tensor).dtype
    assert length_of(in_file) == length_of(tensor) == size
    tensors.take(in_file)
    assert in_file == tensor


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("other_files", [False, True])
def test_a_model_is_read_without_its_weights(other_files: bool, tmp_path: Path) -> None:
    path = external(tmp_path, small()) if other_files else write(tmp_path)
    read = load(path)
    in_file = [t for t in read.model.graph.initializer if range_of(t)]
    assert len(in_file) == len(small().graph.initializer)
    assert all(not t.HasField("raw_data") for t in in_file)
    take_all(read.model)
    assert read.model == small()
    assert read.sha256 == load_small(path).sha256
    assert read.size == load_small(path).size


@pytest.mark.usefixtures("all_is_large")
def test_a_second_read_of_a_file_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened, read = write(tmp_path), list[Path](), list[int]()

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            read.append(super().readinto(buffer) or 0)
            return read[-1]

    def counted(place: Path, mode: str) -> io.BufferedReader:
        opened.append(place)
        return io.BufferedReader(Counting(place, mode))

    monkeypatch.setattr(Path, "open", counted)
    load(path)
    assert opened == [path]
    assert sum(read) == path.stat().st_size


def load_small(path: Path) -> files.Loaded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LARGE_FILE", 2**40)
        return load(path)


def fields() -> ModelProto:
    """A model with every kind of field that a reader could lose."""
    net = small()
    net.metadata_props.add(key="k", value="v" * 300)
    net.graph.value_info.append(onnx.helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 16, 8, 8]))
    net.graph.initializer.append(onnx.helper.make_tensor("typed", TensorProto.FLOAT, [20], np.arange(20.0)))
    net.graph.initializer.append(onnx.helper.make_tensor("empty", TensorProto.FLOAT, [0], []))
    net.graph.initializer[0].doc_string = "a weight"
    net.functions.append(onnx.helper.make_function("local", "F", ["a"], ["b"], [], [onnx.helper.make_opsetid("", 17)]))
    return net


@pytest.mark.usefixtures("all_is_large")
def test_one_file_is_written_and_read_without_loss(tmp_path: Path) -> None:
    net, path = fields(), tmp_path / "net.onnx"
    protobuf.write(net, path)
    assert onnx.load(path) == net
    with path.open("rb") as file:
        _, again = protobuf.read(path, file)
    protobuf.write(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert abs(size_of(net) - path.stat().st_size) < 20 * len(net.graph.initializer)


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("other_files", [False, True])
def test_a_large_model_is_cut_like_a_small_one(other_files: bool, tmp_path: Path) -> None:
    path = external(tmp_path, small()) if other_files else write(tmp_path)
    result = cut(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LARGE_FILE", 2**40)
        small_one = cut(small())
        mark(small_one.model, result.plan.sha256)  # the plan of a file states its digest
        assert result.model == small_one.model
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists() == other_files
    saved = onnx.load(tmp_path / "out.onnx")
    for t in saved.graph.initializer:
        t.ClearField("data_location")
        del t.external_data[:]
    assert saved == result.model


@pytest.mark.usefixtures("all_is_large")
@pytest.mark.parametrize("options", [{"recover": "bias"}, {"recover": "reconstruct"}, {"recover": "reconstruct", "rounds": 2}])
def test_a_large_model_is_recovered_like_a_small_one(options: dict[str, Any], tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=images)
    keywords: dict[str, Any] = {"align": "none", "bench": False, "data": tmp_path / "x.npz", **options}
    recovered = onnxprune.prune(write(tmp_path), 0.5, **keywords).model
    with pytest.MonkeyPatch.context() as patch:
        set_bounds(patch, file=2**40, tensor=8)
        expected = onnxprune.prune(small(), 0.5, **keywords).model
    for a, b in zip(recovered.graph.initializer, expected.graph.initializer, strict=True):
        np.testing.assert_allclose(array_of(a), array_of(b), 1e-4, 1e-5, err_msg=a.name)


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
@pytest.mark.parametrize("dims", [[7, 3], [1, 40], [5], []])
def test_slabs_cover_the_whole_tensor(dims: list[int], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "CHUNK", chunk)
    whole = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    in_memory, in_file = onnx.numpy_helper.from_array(whole), TensorProto(data_type=TensorProto.FLOAT, dims=dims)
    (tmp_path / "data").write_bytes(b"before" + whole.tobytes())
    leave(in_file, FileRange(str(tmp_path / "data"), 6, whole.nbytes))
    for tensor in (in_memory, in_file):
        again = np.full_like(np.atleast_1d(whole), np.nan)
        for rows, part in slabs(tensor):
            again[rows] = part
        assert np.array_equal(again, np.atleast_1d(whole))


@pytest.mark.usefixtures("all_is_large")
def test_the_command_line_streams_weights_that_it_does_not_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = external(tmp_path, small())
    command = [str(path), "--ratio", "0.5", "--exclude", "w1", "--align", "none", "-o", str(tmp_path / "out.onnx")]
    assert run(command) == 0
    plan = str(tmp_path / "out.plan.json")
    assert run(["verify", str(path), str(tmp_path / "out.onnx"), plan]) == 0
    assert run(["apply", str(path), plan, "-o", str(tmp_path / "again.onnx")]) == 0
    assert "verified: " in capsys.readouterr().out


@pytest.mark.usefixtures("all_is_large")
def test_a_wrong_cut_of_a_large_model_is_detected(tmp_path: Path) -> None:
    path = write(tmp_path)
    result = cut(path)
    changed = result.model.graph.initializer[0]
    changed.CopyFrom(onnx.numpy_helper.from_array(2 * array_of(changed), changed.name))
    result.save(tmp_path / "out.onnx", tmp_path / "out.json")
    with pytest.raises(onnxprune.PruneError, match="differ"):
        onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "out.json")


@pytest.mark.usefixtures("all_is_large")
def test_external_data_of_the_input_is_not_overwritten(tmp_path: Path) -> None:
    path = external(tmp_path, small())
    (tmp_path / "net.bin").rename(tmp_path / "out.onnx.data")
    net = onnx.load(path, load_external_data=False)
    for t in net.graph.initializer:
        leave(t, tensors.FileRange("out.onnx.data", *range_of(t)[1:]))  # type: ignore[index]
    onnx.save(net, path)
    with pytest.raises(OptionError, match="is the input itself"):
        check_output(tmp_path / "out.onnx", True, path, *load(path).data)


def test_a_model_without_its_external_data_is_reported_in_one_line(tmp_path: Path) -> None:
    net = onnx.load(external(tmp_path, small()), load_external_data=False)
    with pytest.raises(ModelError, match=r"is stored in 'net\.bin'; load the weights too"):
        load(net)


@pytest.mark.usefixtures("all_is_large")
@given(st.floats(0, 1), st.binary(max_size=3))
def test_a_damaged_file_is_refused_or_read_as_protobuf_reads_it(where: float, noise: bytes) -> None:
    data = bytearray(small().SerializeToString())
    place = int(where * len(data))
    data[place : place + len(noise)] = noise
    for content in (bytes(data), bytes(data[:place])):
        expected: ModelProto | None
        try:
            expected = ModelProto.FromString(content)
        except Exception:  # protobuf's own
            expected = None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "damaged.onnx"
            path.write_bytes(content)
            try:
                with path.open("rb") as file:
                    _, found = protobuf.read(path, file)
                take_all(found)
            except DecodeError:
                continue
        assert expected is None or found == expected


@pytest.mark.usefixtures("all_is_large")
def test_spilled_weights_are_not_copied() -> None:
    spilled = spill.Spill()
    net = model("g (float[2,40] x, float[40,50] w1) => (float[2,50] y) { y = MatMul(x, w1) }")
    net.graph.initializer[0].CopyFrom(spilled.put(net.graph.initializer[0]))
    with runnable(net) as path:
        assert isinstance(path, str)
        assert Path(path).parent == spilled.path.parent
        assert Path(path).with_suffix(".data").stat().st_size == 0
        onnx.checker.check_model(path)
    folder = spilled.path.parent
    assert [p.name for p in folder.iterdir()] == [spill.SPILLED]
    del spilled
    assert not folder.exists()


def test_small_models_are_written_as_protobuf_writes_them(tmp_path: Path) -> None:
    save(small(), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == small().SerializeToString()
