# SPDX-License-Identifier: Apache-2.0
"""Folders of images: how pixels are prepared, and everything that can go wrong."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from PIL import Image

from onnxprune.data.load import load_data
from onnxprune.data.preprocess import Preprocess, default_for, parse
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from tests.cases.running import Array
from tests.cases.text import model

RED = (200, 40, 0)


def net(shape: str = "N,3,8,8", kind: str = "float", classes: int = 5) -> ModelProto:
    """A model that takes images and scores classes."""
    return model(
        f"g ({kind}[{shape}] x, float[1,{classes}] w1) => (float[N,{classes}] y) {{ f = Cast <to = 1> (x) z = Flatten(f) "
        "m = ReduceMean <axes = [1]> (z) y = MatMul(m, w1) }"
    )


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: Any = RED, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def only(data: Data) -> Array:
    assert len(data.chunks) == 1
    return data.chunks[0]["x"]


def test_pixels_are_scaled_normalised_and_laid_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    how = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225,scale=255"
    x = only(load_data(tmp_path, net(), preprocess=how))
    assert x.shape == (1, 3, 8, 8)
    assert x.dtype == np.float32
    expected = (np.array(RED) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x[0, :, 3, 3], expected, rtol=1e-5)
    bgr = only(load_data(tmp_path, net("N,8,8,3"), preprocess="order=bgr,scale=1,mean=1:2:3"))
    np.testing.assert_allclose(bgr[0, 3, 3], [0 - 1, 40 - 2, 200 - 3])


DEFAULTS = {
    "colour": ("N,3,224,224", "size=224x224,mean=0,std=1,scale=255,order=rgb,layout=nchw,resize=crop,crop=0.875"),
    "grey": ("N,1,28,28", "size=28x28,mean=0,std=1,scale=255,order=grey,layout=nchw,resize=crop,crop=0.875"),
    "channels last": ("1,48,192,3", "size=48x192,mean=0,std=1,scale=255,order=rgb,layout=nhwc,resize=stretch"),
    "no batch": ("3,16,16", "size=16x16,mean=0,std=1,scale=255,order=rgb,layout=chw,resize=crop,crop=0.875"),
    "no channels": ("N,20,16", "size=20x16,mean=0,std=1,scale=255,order=grey,layout=nhw,resize=stretch"),
}


@pytest.mark.parametrize(("shape", "expected"), DEFAULTS.values(), ids=DEFAULTS)
def test_omitted_keys_follow_from_the_shape_of_the_input(shape: str, expected: str, tmp_path: Path) -> None:
    dims = tuple(int(d) if d.isdigit() else -1 for d in shape.split(","))
    how = default_for(dims)
    assert str(how) == expected
    assert parse(str(how), Preprocess()) == how
    picture(tmp_path / "a.png", (60, 50))
    data = load_data(tmp_path, net(shape))
    batch = next(data.batches(1))["x"]
    assert all(want in (got, -1) for want, got in zip(dims, batch.shape, strict=True))
    assert data.notes == (f"images prepared with --preprocess {expected}",)


def test_an_integer_input_gets_raw_pixels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    x = only(load_data(tmp_path, net(kind="uint8")))
    assert x.dtype == np.uint8
    assert x[0, :, 0, 0].tolist() == list(RED)


def half(path: Path, width: int, height: int) -> Path:
    """Left half white, right half black."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    Image.fromarray(pixels).save(path)
    return path


RESIZES = {
    # the 8 columns of the middle row: 1 = white, 0.5 = filled with grey
    "stretch": ("size=8x8,resize=stretch", [1, 1, 1, 1, 0, 0, 0, 0]),
    "crop": ("size=8x8,resize=crop,crop=1", [1, 1, 1, 1, 0, 0, 0, 0]),
    "letterbox": ("size=8x8,resize=letterbox,pad=127.5", [1, 1, 1, 1, 0, 0, 0, 0]),
    "height": ("size=4x8,resize=height", [1, 1, 1, 1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize(("how", "columns"), RESIZES.values(), ids=RESIZES)
def test_every_resize_mode_keeps_left_and_right(how: str, columns: list[float], tmp_path: Path) -> None:
    half(tmp_path / "a.png", 80, 40)
    x = only(load_data(tmp_path, net("N,1,H,W"), preprocess=how))[0, 0]
    np.testing.assert_allclose(x[len(x) // 2], columns, atol=0.15)


def test_a_letterbox_is_padded_on_both_sides_and_a_text_line_on_the_right(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (20, 10), (255, 255, 255))
    x = only(load_data(tmp_path, net(), preprocess="size=8x8,resize=letterbox"))[0, 0]
    np.testing.assert_allclose(x[:, 0], [114 / 255] * 2 + [1] * 4 + [114 / 255] * 2, atol=1e-5)
    x = only(load_data(tmp_path, net("N,3,8,32"), preprocess="resize=height,mean=0.5,std=0.5"))[0, 0]
    np.testing.assert_allclose(x[4], [1] * 16 + [0] * 16)


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for how in ("resize=crop", "resize=stretch", "resize=letterbox", "resize=height"):
        x = only(load_data(tmp_path, net(), preprocess=f"scale=1,{how}"))
        assert np.array_equal(x[0].transpose(1, 2, 0), pixels)


def test_if_only_a_height_is_given_widths_follow_from_the_images(tmp_path: Path) -> None:
    for name, width in (("a", 40), ("b", 100), ("c", 44)):
        picture(tmp_path / f"{name}.png", (width, 20))
    folder_labels = np.array([7, 8, 9])
    data = load_data(tmp_path, net("N,3,H,W"), preprocess="size=16,resize=height", labels=folder_labels)
    assert [c["x"].shape for c in data.chunks] == [(1, 3, 16, 32), (1, 3, 16, 96), (1, 3, 16, 64)]
    assert data.labels is not None
    assert data.labels.tolist() == [7, 8, 9]
    whole = load_data(tmp_path, net("N,3,H,W"), preprocess="resize=none")
    assert sorted(c["x"].shape[3] for c in whole.chunks) == [40, 44, 100]


def test_labels_follow_images_that_are_grouped_by_shape(tmp_path: Path) -> None:
    for k, width in enumerate((10, 20, 10, 20)):
        picture(tmp_path / f"{k}.png", (width, 10), (k, k, k))
    data = load_data(tmp_path, net("N,3,H,W"), preprocess="resize=none,scale=1", labels=np.arange(4))
    assert data.labels is not None
    assert data.labels.tolist() == [int(v) for b in data.batches(9) for v in b["x"][:, 0, 0, 0]] == [0, 2, 1, 3]


def test_the_exif_orientation_of_photographs_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    x = only(load_data(tmp_path, net("N,1,8,8"), preprocess="scale=4"))
    assert x[0, 0, 0].tolist() == [56, 48, 40, 32, 24, 16, 8, 0]


def test_a_subset_of_a_large_folder_is_seeded_and_reported(tmp_path: Path) -> None:
    for k in range(30):
        picture(tmp_path / f"{k:02}.png", colour=(k, 0, 0))
    chosen = [
        only(load_data(tmp_path, net(), samples=10, seed=s, preprocess="scale=1"))[:, 0, 0, 0].tolist() for s in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0])
    note = load_data(tmp_path, net(), samples=10).notes[-1]
    assert note == "10 of 30 images are used, chosen at random (--samples)"


def test_subfolders_are_classes_if_their_number_fits(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "ant", "bee")):
        picture(tmp_path / name / "1.png", colour=(k, 0, 0))
        picture(tmp_path / name / "deeper" / "2.png", colour=(k, 0, 0))
    data = load_data(tmp_path, net(classes=3), preprocess="scale=1")
    assert data.labels is not None
    assert dict(zip(only(data)[:, 0, 0, 0].tolist(), data.labels.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}
    other = load_data(tmp_path, net(classes=5))
    assert other.labels is None
    assert other.notes[-1] == "the 3 subfolders are not used as labels because the model's first output scores 5 classes"


def test_subfolders_named_by_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    for k in range(11):
        picture(tmp_path / str(k) / "1.png", colour=(k, 0, 0))
    data = load_data(tmp_path, net(classes=11), preprocess="scale=1")
    assert data.labels is not None
    assert data.labels.tolist() == only(data)[:, 0, 0, 0].tolist()


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / f"{k}.png", colour=(k, 0, 0))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    (tmp_path / "3.jpg").write_text("not an image")
    data = load_data(tmp_path, net(), labels=np.arange(4), preprocess="scale=1")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2] == only(data)[:, 0, 0, 0].tolist()
    assert data.notes[-1].startswith("2 of 4 images cannot be read and are skipped: 1.png: ")
    (tmp_path / "0.png").write_text("")
    (tmp_path / "2.png").write_text("")
    with pytest.raises(DataError, match=r"none of the 4 images can be read: 0\.png: cannot identify"):
        load_data(tmp_path, net())


def test_of_an_image_with_several_frames_the_first_is_used_and_named(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (200 * k, 0, 0)) for k in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    picture(tmp_path / "b.png")
    data = load_data(tmp_path, net(), preprocess="scale=1")
    assert only(data)[0, 0, 0, 0] == 0
    assert data.notes[-1] == "1 of 2 images have several frames, of which the first is used: a.tif"


def test_images_with_16_bits_keep_their_contrast(tmp_path: Path) -> None:
    """Pillow's own conversion makes everything above 255 white."""
    ramp = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    x = only(load_data(tmp_path, net("N,1,8,8"), preprocess="scale=1"))
    assert np.array_equal(x[0, 0], ramp >> 8)


def test_images_whose_range_is_unknown_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 2**20, np.int32)).save(tmp_path / "b.tif")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "c.tif")
    data = load_data(tmp_path, net())
    assert len(data) == 1
    assert data.notes[-1].startswith("2 of 3 images cannot be read and are skipped: b.tif: its pixels have 32 bits")
    assert "c.tif: its pixels are floats" in data.notes[-1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_images_of_every_mode_are_read(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif", compression="tiff_lzw")  # Pillow 10.0 cannot read others
    assert only(load_data(tmp_path, net())).shape == (1, 3, 8, 8)


def test_large_images_are_read_without_a_warning_and_larger_ones_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, side in (("a", 8), ("b", 12), ("c", 20)):
        picture(tmp_path / f"{name}.png", (side, side))
    data = load_data(tmp_path, net())
    assert len(data) == 2
    assert "c.png: Image size (400 pixels) exceeds limit" in data.notes[-1]


def test_an_image_that_would_become_too_large_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (1, 2000))
    with pytest.raises(DataError, match=r"none of the 1 images can be read: a\.png: 1x2000 pixels would be scaled to"):
        load_data(tmp_path, net("N,3,H,W"), preprocess="size=512x512,resize=crop,crop=0.01")


def test_links_that_lead_nowhere_and_odd_names_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("nowhere.png")
    (tmp_path / "c\n\x1b[31m.png").write_text("no image")
    note = load_data(tmp_path, net()).notes[-1]
    assert note.startswith("2 of 3 images cannot be read and are skipped: b.png: ")
    assert note.isprintable()


UNFIT = {
    "signed bytes": ("int8", "", "pixels become 0 to 255, which int8, the type of the model's input, cannot hold"),
    "below zero": ("uint8", "mean=128", "pixels become -128 to 127, which uint8"),
    "half floats": ("float16", "scale=0.001", "pixels become 0 to 255000, which float16"),
    "truth values": ("bool", "", "images do not become bool"),
    "scale": ("float", "scale=1e-300", "pixels become infinite"),
    "mean": ("float", "mean=1e39", "pixels become infinite"),
    "pad": ("float", "resize=letterbox,pad=1e300", "pixels become infinite"),
}


@pytest.mark.parametrize(("kind", "how", "why"), UNFIT.values(), ids=UNFIT)
def test_pixels_that_the_input_cannot_hold_are_refused(kind: str, how: str, why: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"`preprocess`: .*{why}"):
        load_data(tmp_path, net(kind=kind), preprocess=how)


WRONG = {
    "unknown key": ("sise=8x8", "got 'sise=8x8'; did you mean 'size'"),
    "no value": ("size", "got 'size'; expected size=, mean="),
    "size": ("size=8by8", "a size such as 224x224"),
    "superscript size": ("size=8x²", "a size such as 224x224"),
    "huge size": ("size=100000x100000", "at most 134,217,728 pixels"),
    "mean not a number": ("mean=nan", "numbers such as"),
    "std infinite": ("std=inf", "numbers such as"),
    "mean": ("mean=a:b", "numbers such as"),
    "std": ("std=0", "numbers above 0"),
    "scale": ("scale=1:2", "one number"),
    "crop": ("crop=1.5", "at most 1"),
    "order": ("order=xyz", "one of rgb, bgr, grey"),
    "channels": ("mean=1:2", "mean has 2 numbers, expected 1 or 3 with order=rgb"),
    "other size": (
        "size=9x9",
        r"crop=0.875: 'x' has shape \[1, 3, 9, 9\], the model expects .*8, 8\]; use `preprocess` size=8x8",
    ),
    "other size, own mean": ("size=9x9,mean=0.5", r"use `preprocess` size=8x8,mean=0\.5,"),
    "other layout": ("layout=nhwc", r"has shape \[1, 8, 8, 3\].*use `preprocess` .*layout=nchw"),
    "grey": ("order=grey", r"has shape \[1, 1, 8, 8\].*use `preprocess` .*order=rgb"),
    "no channels": ("layout=nhw", "no channel axis"),
}


@pytest.mark.parametrize(("how", "why"), WRONG.values(), ids=WRONG)
def test_a_preprocess_that_does_not_fit_gives_a_one_line_error_with_a_remedy(how: str, why: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=why) as e:
        load_data(tmp_path, net(), preprocess=how)
    assert "\n" not in str(e.value)


def test_the_size_that_fits_is_shown_where_only_the_height_is_fixed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has shape \[1, 3, 32, 64\].*use `preprocess` size=48x64"):
        load_data(tmp_path, net("N,3,48,W"), preprocess="size=32x64")


def test_models_and_labels_that_do_not_fit_a_folder_of_images_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    two = model("g (float[N,3,8,8] x, float[N,2] s) => (float[N,3,8,8] y) { y = Identity(x) }")
    with pytest.raises(DataError, match=r"has 2 \(x, s\); use an .npz"):
        load_data(tmp_path, two)
    with pytest.raises(DataError, match="which cannot hold images"):
        load_data(tmp_path, net("N,2,3,8,8"))
    with pytest.raises(DataError, match="the model's input size is dynamic; set size="):
        load_data(tmp_path, net("N,3,H,W"))
    with pytest.raises(DataError, match="expected one per image"):
        load_data(tmp_path, net(), labels=np.arange(3))


def test_a_folder_of_arrays_is_read_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no images"):
        load_data(tmp_path, net())
    for k in range(3):
        np.savez(tmp_path / f"{k}.npz", x=np.full((3, 8, 8), k, np.float32), label=k)
    data = load_data(tmp_path, net())
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2] == only(data)[:, 0, 0, 0].tolist()
    for k in range(3):
        (tmp_path / f"{k}.npz").unlink()
        np.save(tmp_path / f"{k}.npy", np.full((2, 3, 8, 8), k, np.float32))
    assert only(load_data(tmp_path, net()))[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'onnxprune\[images\]'"):
        load_data(tmp_path, net())
