# SPDX-License-Identifier: Apache-2.0
"""Images of words for a text recogniser trained with CTC, and its accuracy on them.

`words` is for `--data tools.ocr_words:words`: 256 rendered calibration words. `characters` is for
`--metric tools.ocr_words:characters`: character accuracy. Both assume the classes of PaddleOCR's recognisers: the blank (0),
then the characters in the model's metadata entry `character`, one per line, then the space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Font = ImageFont.FreeTypeFont
FOLDER, LIST = Path("/usr/share/fonts/truetype"), Path("/usr/share/dict/words")
PACKAGES = "apt-get install fonts-dejavu-core fonts-liberation fonts-freefont-ttf wamerican"
HEIGHT, STEP, LONGEST = 48, 64, 24
"""Height of an image, the multiple to which its width is rounded up, and the most characters of a label."""


class MissingError(Exception):
    """Fonts or words are missing; the message says what to install."""


@dataclass(frozen=True)
class Sample:
    """A word and its image.

    Attributes:
        word: the text.
        pixels: (3, 48, width) float32 in [-1, 1]; zeros right of the text, as in PaddleOCR's padding.
    """

    word: str
    pixels: NDArray[np.float32]


def vocabulary(path: Path = LIST) -> list[str]:
    """Words of 3 to 12 plain letters, each once regardless of case.

    Raises:
        MissingError: the list does not exist.
    """
    if not path.is_file():
        raise MissingError(f"{path}: there is no list of words; on Debian: {PACKAGES}")
    lines = path.read_text(encoding="utf-8").split()
    return list({w.lower(): w for w in lines if w.isascii() and w.isalpha() and 3 <= len(w) <= 12}.values())


def font_files(folder: Path = FOLDER) -> list[Path]:
    """All TrueType text fonts below a folder.

    Raises:
        MissingError: there is none.
    """
    found = sorted(p for p in folder.rglob("*.ttf") if "Math" not in p.name)
    if not found:
        raise MissingError(f"{folder}: there are no fonts (.ttf); on Debian: {PACKAGES}")
    return found


def chosen(words: Sequence[str], count: int, test: bool, seed: int = 0) -> list[str]:
    """Some words in mixed case. Calibration words and test words are disjoint for any `count`."""
    order = np.random.default_rng(seed).permutation(len(words))[int(test) :: 2][:count]
    rng = np.random.default_rng([seed, test])
    return [(words[k], words[k].capitalize(), words[k].upper())[rng.choice(3, p=(0.6, 0.25, 0.15))] for k in order]


def opened(files: Sequence[Path], sizes: Sequence[int] = (28, 34, 40)) -> list[Font]:
    """Every font in every size."""
    return [ImageFont.truetype(str(file), size) for file in files for size in sizes]


def render(word: str, fonts: Sequence[Font], rng: np.random.Generator) -> Sample:
    """A word on a plain background; font, size, margins, colours, blur and noise are drawn from `rng`."""
    font = fonts[int(rng.integers(len(fonts)))]
    left, top, right, bottom = (round(n) for n in font.getbbox(word))
    margins = rng.integers(3, 9, 4)
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ground, ink = (dark, light) if rng.random() < 0.25 else (light, dark)
    size = (right - left + int(margins[:2].sum()), bottom - top + int(margins[2:].sum()))
    image = Image.new("RGB", size, tuple(ground.tolist()))
    ImageDraw.Draw(image).text((margins[0] - left, margins[2] - top), word, tuple(ink.tolist()), font)
    image = image.resize((max(8, round(size[0] * HEIGHT / size[1])), HEIGHT), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 8), (HEIGHT, image.width, 3))
    return Sample(word, padded(np.clip(noisy, 0, 255).transpose(2, 0, 1) / 127.5 - 1))


def padded(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels padded with zeros on the right to a multiple of `STEP`: few distinct widths make large batches."""
    return np.pad(pixels, ((0, 0), (0, 0), (0, -pixels.shape[2] % STEP))).astype(np.float32)


def samples(count: int, test: bool, files: Sequence[Path], words: Sequence[str], seed: int = 0) -> list[Sample]:
    """Rendered words, reproducible by the seed."""
    rng, fonts = np.random.default_rng([seed, test, 1]), opened(files)
    return [render(word, fonts, rng) for word in chosen(words, count, test, seed)]


def classes_of(model: onnx.ModelProto) -> list[str]:
    """The text of each class; the blank is empty."""
    listed = next((p.value for p in model.metadata_props if p.key == "character"), None)
    if listed is None:
        raise MissingError("the model has no metadata entry 'character' that lists its classes, one per line")
    return ["", *listed.split("\n"), " "]


def encoded(word: str, classes: Sequence[str]) -> NDArray[np.int64]:
    """A word as classes (LONGEST,), padded with blanks."""
    found = [classes.index(letter) for letter in word]
    return np.array(found + [0] * (LONGEST - len(found)), np.int64)


def feed(sample: Sample, classes: Sequence[str]) -> dict[str, NDArray[Any]]:
    """A sample in the input format of onnxprune."""
    return {"x": sample.pixels[None], "label": encoded(sample.word, classes)[None]}


def words(path: str) -> Iterator[dict[str, NDArray[Any]]]:
    """256 rendered calibration words for the recogniser in `path`."""
    classes = classes_of(onnx.load(path))
    for sample in samples(256, False, font_files(), vocabulary()):
        yield feed(sample, classes)


def read(scores: NDArray[Any]) -> list[int]:
    """Greedy CTC decoding of scores (positions, classes): repeats collapsed, blanks and outer spaces removed."""
    found, space = [int(k) for k, _ in groupby(scores.argmax(-1).tolist()) if k], scores.shape[-1] - 1
    inner = [k for k, one in enumerate(found) if one != space]
    return found[inner[0] : inner[-1] + 1] if inner else []


def distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that turn one into the other.

    >>> distance("kitten", "sitting"), distance("", "abc")
    (3, 3)
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def accuracy(errors: Sequence[int], lengths: Sequence[int]) -> float:
    """1 - edit distance / length, over all words together; at least 0."""
    return max(0.0, 1 - sum(errors) / max(1, sum(lengths)))


def characters(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> float:
    """Character accuracy of a recogniser's only output (samples, positions, classes); labels in the format of `encoded`."""
    truths = [label[label > 0].tolist() for label in labels]
    found = [distance(read(s), t) for s, t in zip(next(iter(outputs.values())), truths, strict=True)]
    return accuracy(found, [len(t) for t in truths])
