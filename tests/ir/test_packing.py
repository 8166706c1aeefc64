# SPDX-License-Identifier: Apache-2.0
"""Packed models: the same model as the plain file, and one line for every file that is none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.errors import ModelError, OutputError
from onnxprune.ir import packing, saving
from onnxprune.ir.files import load
from onnxprune.ir.packing import MAGIC
from onnxprune.ir.saving import save
from tests.cases.commands import files as contents
from tests.cases.nets import external, pruned, small, write

zstd: Any = packing._zstd()


def packed(folder: Path, data: bytes | None = None, name: str = "net.onnx.zst") -> Path:
    """A packed file, as another program writes it; of the small model by default."""
    path = folder / name
    path.write_bytes(zstd.compress(small().SerializeToString() if data is None else data))
    return path


def without_size(data: bytes) -> bytes:
    """Compressed data that do not state how long they are."""
    compressor = zstd.ZstdCompressor()
    return bytes(compressor.compress(data) + compressor.flush())


@pytest.mark.parametrize("name", ["net.onnx.zst", "net.ZST", "net.onnx"])
def test_a_packed_model_is_known_by_its_bytes_and_read_as_the_plain_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain, read = load(write(tmp_path / "plain")), load(packed(tmp_path, name=name))
    assert read.model == plain.model
    assert (read.sha256, read.size, read.data) == (plain.sha256, plain.size, ())
    assert read.files == (tmp_path / name,)


@pytest.mark.parametrize("parts", [1, 3])
def test_frames_without_a_size_and_several_frames_are_read(parts: int, tmp_path: Path) -> None:
    data, path = small().SerializeToString(), tmp_path / "net.onnx.zst"
    path.write_bytes(b"".join(without_size(bytes(part)) for part in np.array_split(np.frombuffer(data, np.uint8), parts)))
    assert load(path).model == small()


@pytest.mark.parametrize("large", [False, True])
def test_a_saved_packed_model_expands_to_the_bytes_of_the_plain_file(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(saving, "LARGE_FILE", 1)
    save(small(), tmp_path / "o.onnx")
    save(small(), tmp_path / "o.onnx.zst")
    assert sorted(contents(tmp_path)) == ["o.onnx", "o.onnx.zst"]
    data = (tmp_path / "o.onnx.zst").read_bytes()
    assert zstd.decompress(data) == (tmp_path / "o.onnx").read_bytes()
    assert zstd.get_frame_info(data).decompressed_size == (tmp_path / "o.onnx").stat().st_size
    assert load(tmp_path / "o.onnx.zst").model == small()


def test_a_result_is_packed_by_its_name_and_its_plan_fits_both_files(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain, path = write(tmp_path / "plain"), packed(tmp_path)
    result = pruned(path, 0.5, align="none")
    result.save(tmp_path / "o.onnx.zst", tmp_path / "o.json")
    assert load(tmp_path / "o.onnx.zst").model == result.model
    assert result.plan.model_sha256 == load(plain).sha256
    for original in (plain, path):
        assert onnxprune.verify_files(original, tmp_path / "o.onnx.zst", tmp_path / "o.json").error < 1e-5
        again = onnxprune.apply_plan(original, tmp_path / "o.json", bench=False)
        assert again.model == result.model
        assert not [note for note in again.report.notes if "different contents" in note]
    assert onnxprune.analyze(path).prunable == onnxprune.analyze(plain).prunable


def test_a_packed_model_with_external_data_reads_it_from_its_folder_and_is_packed_with_it(tmp_path: Path) -> None:
    plain = external(tmp_path)
    path = packed(tmp_path, plain.read_bytes())
    plain.unlink()
    read = load(path)
    assert read.data == (tmp_path / "net.bin",)
    assert [numpy_helper.to_array(t).tolist() for t in read.model.graph.initializer] == [
        numpy_helper.to_array(t).tolist() for t in small().graph.initializer
    ]
    pruned(path, 0.5, align="none").save(tmp_path / "o.onnx.zst")
    assert sorted(contents(tmp_path)) == ["net.bin", "net.onnx.zst", "o.onnx.zst"]
    assert not load(tmp_path / "o.onnx.zst").external
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx\.zst: weight 'w1' is stored in 'net\.bin', which is missing"):
        load(path)


def flipped(data: bytes) -> bytes:
    """Data with a few bytes in the middle inverted."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - b for b in data[middle : middle + 8]) + data[middle + 8 :]


def part(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def wide(data: bytes) -> bytes:
    """Data that need a gigabyte of memory to be expanded."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 30})
    return bytes(compressor.compress(data) + compressor.flush())


SPOILS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "the file is empty"),
    "no Zstandard file": (lambda _: b"PK\3\4 and so on", "begins with the bytes 50 4b 03 04, expected 28 b5 2f fd"),
    "a plain model": (lambda _: small().SerializeToString(), "is not a Zstandard file"),
    "three bytes": (lambda data: data[:3], "is not a Zstandard file"),
    "magic alone": (lambda _: MAGIC, "is damaged"),
    "header": (lambda data: data[:12], r"is truncated: .* \(12 bytes\)"),
    "half": (part(0.5), "is truncated"),
    "last byte missing": (lambda data: data[:-1], "is truncated"),
    "bytes changed": (flipped, "is damaged"),
    "bytes added": (lambda data: data + b"more", "is damaged"),
    "nothing inside": (lambda _: zstd.compress(b""), "expands to 0 bytes"),
    "text inside": (lambda _: zstd.compress(b"no model\n" * 9), r"81 bytes, expanded, do not parse"),
    "a packed file inside": (zstd.compress, "not an ONNX model"),
    "half a model inside": (lambda _: zstd.compress(small().SerializeToString()[:2000]), r"2000 bytes, expanded, do not parse"),
    "too much memory": (lambda _: wide(small().SerializeToString()), "requires too much memory"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILS.values(), ids=SPOILS)
def test_a_packed_file_that_is_no_model_is_reported_in_one_line(
    spoil: Callable[[bytes], bytes], why: str, tmp_path: Path
) -> None:
    save(small(), tmp_path / "net.onnx.zst")
    path = tmp_path / "net.onnx.zst"
    path.write_bytes(spoil(path.read_bytes()))
    before = contents(tmp_path)
    with pytest.raises(ModelError, match=why) as e:
        load(path)
    assert str(e.value).startswith(f"{path}: ")
    assert "\n" not in str(e.value)
    assert contents(tmp_path) == before


def no_weights(length: int) -> bytes:
    """A model with a description of `length` bytes."""
    net = small()
    net.doc_string = "a" * length
    return net.SerializeToString()


@pytest.mark.parametrize("compress", [zstd.compress, without_size], ids=["stated", "not stated"])
def test_a_file_that_expands_without_end_is_refused_before_it_fills_the_memory(
    compress: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx.zst"
    path.write_bytes(compress(no_weights(2**25)))
    assert path.stat().st_size < 2**16
    assert load(path).size == len(no_weights(2**25))
    monkeypatch.setattr(packing, "INLINE_LIMIT", 2**22)
    monkeypatch.setattr(packing, "CHUNK", 2**16)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"expands to more than 4,194,304 bytes, the most that an ONNX file can have"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_model_that_is_too_large_for_one_file_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "INLINE_LIMIT", 1000)
    with pytest.raises(OutputError, match=r"too large to be packed: [0-9,]+ bytes, expected fewer than 1,000") as e:
        save(small(), tmp_path / "o.onnx.zst")
    assert str(e.value).startswith(f"{tmp_path / 'o.onnx.zst'}: ")
    assert contents(tmp_path) == {}


def test_a_full_disk_leaves_no_packed_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "o.onnx.zst").write_bytes(b"what was there")
    monkeypatch.setattr(saving, "pack", is_full)
    with pytest.raises(OutputError, match="No space left on device; nothing was changed"):
        save(small(), tmp_path / "o.onnx.zst")
    assert contents(tmp_path) == {"o.onnx.zst": b"what was there"}


def test_a_packed_model_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = packed(tmp_path), list[Path]()
    real: Any = Path.open

    def counted(place: Path, *how: str) -> Any:
        opened.append(place)
        return real(place, *how)

    monkeypatch.setattr(Path, "open", counted)
    assert isinstance(load(path).model, ModelProto)
    assert opened == [path]


def test_onnx_reads_what_the_packed_file_expands_to(tmp_path: Path) -> None:
    save(small(), tmp_path / "o.onnx.zst")
    onnx.checker.check_model(onnx.load_from_string(zstd.decompress((tmp_path / "o.onnx.zst").read_bytes())))
