# SPDX-License-Identifier: Apache-2.0
"""Data that needs no network: clothes (Fashion-MNIST), crops of photographs, rendered letters and scenes, synthesized sounds.

Every data set is made from seeds; training and held-out parts share no image, no region of a photograph and no seed.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trained.sounds import sounds_of

Array = NDArray[Any]
Rng = np.random.Generator
PHOTOS = "astronaut.png chelsea.png coffee.png rocket.jpg hubble_deep_field.jpg ihc.png retina.jpg motorcycle_left.png".split()
FONTS = Path("/usr/share/fonts/truetype")
CLOTHES = Path("/usr/share/datasets/fashion-mnist")
FIT, HELD = 400, 800


@dataclass(frozen=True)
class Part:
    """Raw inputs (n, channels, *sizes), uint8 for images, and what is true of them."""

    inputs: Array = field(repr=False)
    truth: Array = field(repr=False)


@dataclass(frozen=True)
class Dataset:
    """Inputs to train on, inputs to fit a cut model to (never trained on), and inputs to judge on."""

    train: Part
    fit: Part
    held: Part


def _images(part: str) -> tuple[Array, Array]:
    def read(stem: str, offset: int) -> Array:
        return np.frombuffer(gzip.decompress((CLOTHES / f"{part}-{stem}-ubyte.gz").read_bytes()), np.uint8, offset=offset)

    if not CLOTHES.is_dir():
        raise SystemExit(f"{CLOTHES}: not found; apt-get install dataset-fashion-mnist, or name its folder with --clothes")
    return read("images-idx3", 16).reshape(-1, 1, 28, 28), read("labels-idx1", 8).astype(np.int64)


def clothes(train: int = 10000) -> Dataset:
    """Fashion-MNIST: (1, 28, 28), ten classes."""
    (x, y), (u, v) = _images("train"), _images("t10k")
    return Dataset(Part(x[:train], y[:train]), Part(u[-FIT:], v[-FIT:]), Part(u[:HELD], v[:HELD]))


def _photos() -> list[Image.Image]:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SystemExit("photographs: pip install scikit-image")
    folder = Path(found.origin).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOS]


def _crop(photo: Image.Image, rng: Rng, held: bool, size: int) -> Array:
    """A random part of the left 60 % of a photograph, or of its right 40 %, with other light; (3, size, size)."""
    border = round(0.6 * photo.width)
    left, right = (border, photo.width) if held else (0, border)
    side = int(rng.integers(size, min(right - left, photo.height, 4 * size)))
    a, b = int(rng.integers(left, right - side + 1)), int(rng.integers(0, photo.height - side + 1))
    pixels = np.asarray(photo.crop((a, b, a + side, b + side)).resize((size, size), Image.Resampling.BILINEAR), np.float32)
    pixels = pixels[:, ::-1] if rng.integers(2) else pixels
    lit = np.clip(pixels * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20), 0, 255)
    return np.asarray(lit.transpose(2, 0, 1), np.uint8)


def _parts(make: Callable[[Rng, bool, int], tuple[Array, Array]], train: int, held: int = 600) -> Dataset:
    """Three parts from a function of (rng, held out, number)."""
    counts = {"train": (False, train), "fit": (True, FIT), "held": (True, held)}
    rngs = {name: np.random.default_rng([7, k]) for k, name in enumerate(counts)}
    return Dataset(**{name: Part(*make(rngs[name], *counts[name])) for name in counts})


def photos(size: int = 40) -> Dataset:
    """Which of eight photographs is this a part of? (3, 40, 40)."""
    files = _photos()

    def make(rng: Rng, held: bool, count: int) -> tuple[Array, Array]:
        truth = rng.integers(0, len(files), count)
        return np.stack([_crop(files[k], rng, held, size) for k in truth]), truth

    return _parts(make, 8000)


def collage(size: int = 32) -> Dataset:
    """Clothes in a random colour on parts of photographs: (3, 32, 32), ten classes."""
    files, sets = _photos(), (_images("train"), _images("t10k"))

    def make(rng: Rng, held: bool, count: int) -> tuple[Array, Array]:
        images, labels = sets[held]
        chosen = rng.permutation(len(images))[:count]
        cover = np.pad(images[chosen].astype(np.float32) / 255, ((0, 0), (0, 0), (2, 2), (2, 2)))
        ground = np.stack([_crop(files[k], rng, held, size) for k in rng.integers(0, len(files), count)])
        colour = rng.uniform(60, 255, (count, 3, 1, 1))
        mask = np.minimum(1, 4 * cover)
        return (ground * (1 - mask) + colour * cover * mask).astype(np.uint8), labels[chosen]

    return _parts(make, 10000)


def _noisy(image: Image.Image, rng: Rng) -> Array:
    pixels = np.asarray(image, np.float32)
    noise = rng.normal(0, rng.uniform(0, 12), pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def letters(size: int = 32) -> Dataset:
    """Letters in any font, colour, place and angle: (3, 32, 32), 26 classes."""
    files = sorted(p for p in FONTS.rglob("*.ttf") if "Math" not in p.name)
    fonts = [[ImageFont.truetype(str(p), s) for s in (18, 22, 26)] for p in files]

    def make(rng: Rng, held: bool, count: int) -> tuple[Array, Array]:
        truth, rows = rng.integers(0, 26, count), []
        for k in truth:
            font = fonts[rng.integers(len(fonts))][rng.integers(3)]
            ground, ink = rng.integers(0, 256, (2, 3))
            ink = np.where(np.abs(ink - ground).sum() < 150, 255 - ground, ink)
            mask = Image.new("L", (size, size))
            ImageDraw.Draw(mask).text((size / 2, size / 2), chr(65 + k), 255, font, "mm")
            shift = rng.uniform(-3, 3, 2)
            mask = mask.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, translate=tuple(shift))
            image = Image.new("RGB", (size, size), tuple(ground.tolist()))
            image.paste(tuple(ink.tolist()), (0, 0), mask)
            rows.append(_noisy(image, rng))
        return np.stack(rows), truth

    return _parts(make, 10000)


def scenes(size: int = 64, cell: int = 8) -> Dataset:
    """One to three shapes on a part of a photograph: (3, 64, 64); truth (n, 3, 5): class or -1, centre, width, height."""
    files = _photos()

    def shape(draw: ImageDraw.ImageDraw, rng: Rng, kind: int, box: Array) -> None:
        x, y, w, h = box
        ends, colour = (x - w / 2, y - h / 2, x + w / 2, y + h / 2), tuple(rng.integers(0, 256, 3).tolist())
        if kind == 0:
            draw.ellipse(ends, colour, tuple(rng.integers(0, 256, 3).tolist()))
        elif kind == 1:
            draw.rectangle(ends, colour, tuple(rng.integers(0, 256, 3).tolist()))
        else:
            draw.polygon([(x, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)], colour)

    def scene(rng: Rng, held: bool) -> tuple[Array, Array]:
        ground = Image.fromarray(_crop(files[rng.integers(len(files))], rng, held, size).transpose(1, 2, 0))
        draw, truth, taken = ImageDraw.Draw(ground), np.full((3, 5), -1.0, np.float32), list[Array]()
        for k in range(rng.integers(1, 4)):
            sides = rng.uniform(12, 28, 2)
            box = np.concatenate([rng.uniform(sides / 2, size - sides / 2), sides])
            if all(np.abs(box[:2] - other[:2]).max() > 1.5 * cell for other in taken):
                kind = int(rng.integers(3))
                shape(draw, rng, kind, box)
                taken.append(box)
                truth[k] = [kind, *box]
        return _noisy(ground, rng), truth

    def make(rng: Rng, held: bool, count: int) -> tuple[Array, Array]:
        rows = [scene(rng, held) for _ in range(count)]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])

    return _parts(make, 6000)


def sounds() -> Dataset:
    """Half a second at 8 kHz of one of eight sources: (1, 4000) float32."""
    return _parts(lambda rng, held, count: sounds_of(rng, count), 6000)


DATASETS: Mapping[str, Callable[[], Dataset]] = {
    "clothes": clothes, "photos": photos, "collage": collage, "letters": letters, "scenes": scenes, "sounds": sounds,
}  # fmt: skip


def _imagenet(x: Array) -> Array:
    mean, deviation = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return np.asarray((x / 255 - mean) / deviation)


SCALES: Mapping[str, Callable[[Array], Array]] = {
    "unit": lambda x: x / 255 if x.dtype == np.uint8 else x,
    "signed": lambda x: x / 127.5 - 1,
    "pixels": lambda x: x,
    "standard": lambda x: (x / 255 - 0.286) / 0.353,
    "imagenet": _imagenet,
}
"""From raw inputs to what a network takes."""
