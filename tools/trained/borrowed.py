# SPDX-License-Identifier: Apache-2.0
"""Inputs for the networks that were not trained here: rendered words and pages, and what `inputs.py` beside them makes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ocr_words as ocr
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trained.registry import BORROWED, ROOT, Trained

Array = NDArray[Any]
Feeds = dict[str, Array]
FIT, HELD, PAGES = 200, 300, 60
WORDS = ocr.LIST
"""A list of words, one per line; without it, the words of this project's documents."""


def _words(count: int, held: bool) -> list[ocr.Sample]:
    """Rendered words, padded or cut off at a width of 320."""
    return [s for s in ocr.samples(2 * count, held, ocr.font_files(), _vocabulary()) if s.pixels.shape[2] <= 320][:count]


def _vocabulary() -> list[str]:
    if WORDS.is_file():
        return ocr.vocabulary(WORDS)
    text = " ".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))
    letters = "".join(c if c.isascii() and c.isalpha() else " " for c in text)
    return sorted({w.lower() for w in letters.split() if 3 <= len(w) <= 12})


def _padded(pixels: Array, width: int) -> Array:
    return np.pad(pixels[:, :, :width], ((0, 0), (0, 0), (0, max(0, width - pixels.shape[2]))))


def recogniser(network: Trained, held: bool) -> Feeds:
    """Words and their characters as classes."""
    classes = ocr.classes_of(onnx.load(network.model))
    found = _words(HELD if held else FIT, held)
    labels = np.stack([ocr.encoded(s.word, classes) for s in found])
    return {"x": np.stack([_padded(s.pixels, 320) for s in found]), "label": labels}


def direction(network: Trained, held: bool) -> Feeds:
    """Words at 48 x 192, half of them upside down."""
    found = np.stack([_padded(s.pixels, 192) for s in _words(HELD if held else FIT, held)])
    turned = np.arange(len(found)) % 2
    return {"x": np.where(turned[:, None, None, None] == 1, found[:, :, ::-1, ::-1], found), "label": turned}


def pages(network: Trained, held: bool, size: int = 192) -> Feeds:
    """Pages of a few words, with ImageNet's mean and deviation."""
    rng, fonts, rows = np.random.default_rng(40 + held), ocr.font_files(), list[Array]()
    words = _vocabulary()
    for _ in range(PAGES):
        ground = rng.integers(120, 256, 3)
        image = Image.new("RGB", (size, size), tuple(ground.tolist()))
        for _ in range(rng.integers(2, 7)):
            font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(12, 30)))
            place = (int(rng.integers(0, size // 2)), int(rng.integers(0, size - 30)))
            ImageDraw.Draw(image).text(place, words[rng.integers(len(words))], tuple(rng.integers(0, 90, 3).tolist()), font)
        pixels = np.asarray(image, np.float32) + rng.normal(0, 6, (size, size, 3))
        rows.append(np.clip(pixels, 0, 255) / 255)
    x = (np.stack(rows) - (0.485, 0.456, 0.406)) / np.array((0.229, 0.224, 0.225))
    return {"x": x.transpose(0, 3, 1, 2).astype(np.float32)}


def _function(name: str, count: int) -> Callable[[Trained, bool], Feeds]:
    def read(network: Trained, held: bool) -> Feeds:
        spec = importlib.util.spec_from_file_location("inputs", BORROWED / "inputs.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        samples: Iterable[Feeds] = getattr(module, name)("held" if held else "fit", count)
        rows = list(samples)
        joined = np.stack if name == "voice" else np.concatenate
        return {key: joined([np.asarray(r[key]) for r in rows]) for key in rows[0]}

    return read


def clothes(network: Trained, held: bool) -> Feeds:
    """The committed test images: 700 to judge on, 300 to fit."""
    found = np.load(ROOT / "models" / "resnet20-fashion-mnist.npz")
    part = slice(0, 700) if held else slice(700, 1000)
    return {key: found[key][part] for key in ("image", "label")}


SOURCES: Mapping[str, Callable[[Trained, bool], Feeds]] = {
    "resnet20": clothes,
    "mobilenetv2": clothes,
    "ppocr-cls": direction,
    "ppocr-det": pages,
    "ppocr-rec": recogniser,
    "file-type": _function("files", 300),
    "notes": _function("notes", 40),
    "voice": _function("voice", 300),
}


def write_inputs(network: Trained, folder: Path) -> None:
    """Write NAME.fit.npz without labels and NAME.held.npz, unless they exist."""
    for held, part in ((False, "fit"), (True, "held")):
        path = folder / f"{network.name}.{part}.npz"
        if not path.is_file():
            feeds = SOURCES[network.name](network, held)
            kept = {name: x for name, x in feeds.items() if held or name != "label"}
            np.savez_compressed(path, **kept)  # type: ignore[arg-type]
