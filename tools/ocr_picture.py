# SPDX-License-Identifier: Apache-2.0
"""The picture of `ocr_case.py`: words, what each model reads, and bars of character accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, INK, GREY, PAPER = "#1a7f37", "#cf222e", "#1f2328", "#656d76", "#ffffff"
ROW, COLUMN, FIRST, EDGE, BAR = 36, 230, 260, 16, 24


@dataclass(frozen=True)
class Shown:
    """A word: its image (3, height, width) in [-1, 1], its text, and what each model reads."""

    pixels: NDArray[np.float32] = field(repr=False)
    word: str
    texts: Sequence[str]


@dataclass(frozen=True)
class Bars:
    """Fractions in [0, 1] under a title."""

    title: str
    shares: Mapping[str, float]


def printable(text: str) -> str:
    """Text with characters missing from the font (Chinese) as boxes; an empty text as a dash."""
    return "".join(c if c.isascii() else "□" for c in text) or "-"


def draw(heads: Sequence[str], shown: Sequence[Shown], bars: Sequence[Bars], font: Path | None, path: Path) -> None:
    """Write the picture.

    Args:
        heads: names of the models, in the order of each word's texts.
        bars: drawn side by side below the words.
        font: a TrueType file; None: Pillow's default.
    """
    width = FIRST + COLUMN * len(heads) + 2 * EDGE
    below = max(len(b.shares) for b in bars) * BAR + 2 * ROW
    image = Image.new("RGB", (width, ROW * (len(shown) + 1) + below + 2 * EDGE), PAPER)
    pen = ImageDraw.Draw(image)
    large, small = (ImageFont.truetype(str(font), n) if font else ImageFont.load_default(n) for n in (17, 13))
    for k, head in enumerate(heads):
        pen.text((EDGE + FIRST + COLUMN * k, EDGE), head, GREY, small)
    for row, one in enumerate(shown, 1):
        _word(image, pen, one, EDGE + ROW * row, large)
    for k, chart in enumerate(bars):
        left = EDGE + k * (width - EDGE) // len(bars)
        _chart(pen, chart, (left, EDGE + ROW * (len(shown) + 1) + ROW // 2), (width - 2 * EDGE) // len(bars), small)
    image.save(path, optimize=True)


def _word(image: Image.Image, pen: ImageDraw.ImageDraw, one: Shown, top: int, font: Any) -> None:
    text = one.pixels[:, :, one.pixels.any((0, 1))]  # without the padding
    picture = Image.fromarray(((text + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0))
    picture.thumbnail((FIRST - EDGE, ROW - 6))
    image.paste(picture, (EDGE, top))
    for k, read in enumerate(one.texts):
        colour = RIGHT if read == one.word else WRONG
        pen.text((EDGE + FIRST + COLUMN * k, top + 4), printable(read)[:22], colour, font)


def _chart(pen: ImageDraw.ImageDraw, chart: Bars, at: tuple[int, int], width: int, font: Any) -> None:
    x, y = at
    pen.text((x, y), f"characters read right, {chart.title}", INK, font)
    for k, (name, share) in enumerate(chart.shares.items(), 1):
        top, left = y + BAR * k, x + 150
        length = round((width - 150 - 80) * share)
        pen.text((x, top + 3), name.partition(" (")[0], GREY, font)
        pen.rectangle((left, top + 4, left + length, top + BAR - 5), RIGHT if share > 0.9 else GREY)
        pen.text((left + length + 6, top + 3), f"{share:.1%}", INK, font)
