# SPDX-License-Identifier: Apache-2.0
"""Every trained network at hand: where it lies, its inputs, its metric. The only list of networks; all tools read it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BORROWED = ROOT.parent / "shared" / "real"
"""Networks made by others, with `inputs.py` that feeds some of them."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onnxprune-trained"
"""Where `train_networks.py` writes unless told otherwise."""


@dataclass(frozen=True)
class Recipe:
    """A network that is trained here.

    Attributes:
        name: stem of its files.
        data: a data set of `datasets.DATASETS`.
        scale: how raw inputs become inputs, in `datasets.SCALES`.
        network: a builder in `networks.NETWORKS`, called with `settings`.
        forms: how BatchNorm is written in the exported files (`forms.FORMS`); the first one as it is trained.
        epochs, rate, adam: of the training; `adam`: by AdamW instead of SGD.
    """

    name: str
    data: str
    scale: str
    network: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] = ("kept",)
    epochs: int = 6
    rate: float = 0.1
    adam: bool = False

    def file(self, form: str) -> str:
        """Stem of the files of one form."""
        return self.name if form == self.forms[0] else f"{self.name}-{form.replace('_', '-')}"


RECIPES = (
    Recipe("clothes-vgg", "clothes", "unit", "vgg", {"widths": (16, 32, 48)}, ("kept", "folded", "mul_add"), 4),
    Recipe("scenes-detector", "scenes", "unit", "detector", {"widths": (12, 24, 32, 32)}, ("kept", "folded"), 12),
    Recipe("collage-mobile", "collage", "pixels", "mobile", {"widths": (16, 24, 40, 64)}, ("kept", "folded"), 5),
    Recipe("photos-resnet", "photos", "imagenet", "resnet", {"widths": (16, 32, 64), "blocks": 1}, ("kept", "folded"), 5),
    Recipe("sounds-conv", "sounds", "unit", "sounds", {"widths": (24, 32, 48, 64)}, ("kept", "folded"), 5),
    Recipe("clothes-resnet", "clothes", "standard", "resnet", {"widths": (12, 24, 48), "blocks": 2}, ("kept", "folded")),
    Recipe("clothes-mlp", "clothes", "pixels", "mlp", {"widths": (256, 128, 128)}, epochs=5, rate=0.05),
    Recipe("letters-resnet", "letters", "pixels", "resnet", {"widths": (20, 40), "blocks": 2}, ("kept", "folded"), 4),
    Recipe(
        "letters-plain", "letters", "signed", "vgg", {"widths": (16, 32, 48), "norm": False}, ("absent",), rate=0.002, adam=True
    ),
    Recipe("collage-vgg", "collage", "signed", "vgg", {"widths": (16, 24, 48)}, ("kept", "sub_mul_add"), 4),
    Recipe(
        "clothes-transformer",
        "clothes",
        "standard",
        "transformer",
        {"width": 48, "depth": 3},
        ("absent",),
        rate=0.002,
        adam=True,
    ),
    Recipe("scenes-detector-255", "scenes", "pixels", "detector", {"widths": (16, 24, 32, 40)}, ("kept", "folded"), 10),
)


@dataclass(frozen=True)
class Trained:
    """A trained network with what judges it.

    Attributes:
        name: unique; the stem of its files of inputs.
        family: networks of one training share it, so that leaving one out leaves out its relatives.
        model: the file.
        metric: in `judging.METRICS`.
        inputs: the values of its inputs, in words.
        parts: (begin, end) on axis 1 of the first output, for parts that are concatenated; empty: outputs are judged whole.
        shape: of the input, where the file leaves it open, as --input-shape takes it.
    """

    name: str
    family: str
    model: Path
    metric: str
    inputs: str
    parts: tuple[tuple[int, int], ...] = ()
    shape: str | None = None


METRIC_OF = {"scenes": "boxes"}
PARTS_OF = {"scenes": ((0, 4), (4, 7))}


def trained_here(folder: Path) -> Iterator[Trained]:
    """The networks of `RECIPES`, in a folder filled by `train_networks.py`."""
    for recipe in RECIPES:
        for form in recipe.forms:
            stem = recipe.file(form)
            yield Trained(
                stem,
                recipe.name,
                folder / f"{stem}.onnx",
                METRIC_OF.get(recipe.data, "accuracy"),
                f"{recipe.data}, {recipe.scale}, BatchNorm {form}",
                PARTS_OF.get(recipe.data, ()),
            )


def not_trained_here() -> Iterator[Trained]:
    """The networks of the repository and those beside it; their inputs are made by `borrowed.py`."""
    yield Trained("resnet20", "resnet20", ROOT / "models" / "resnet20-fashion-mnist.onnx", "accuracy", "clothes, unit")
    mobile = ROOT / "models" / "mobilenetv2-fashion-mnist.onnx"
    yield Trained("mobilenetv2", "mobilenetv2", mobile, "accuracy", "clothes, unit")
    yield Trained("ppocr-cls", "ppocr-cls", BORROWED / "ppocr_v2_cls.onnx", "accuracy", "words, -1..1", shape="1x3x48x192")
    yield Trained("ppocr-det", "ppocr-det", BORROWED / "ppocr_v4_det.onnx", "map", "pages, ImageNet", shape="1x3x192x192")
    yield Trained("ppocr-rec", "ppocr-rec", BORROWED / "ppocr_v4_rec.onnx", "characters", "words, -1..1", shape="1x3x48x320")
    yield Trained("file-type", "file-type", BORROWED / "file_type.onnx", "same", "bytes")
    yield Trained("notes", "notes", BORROWED / "notes.onnx", "map", "sounds")
    yield Trained("voice", "voice", BORROWED / "voice.onnx", "map", "sounds")


def at_hand(folder: Path) -> list[Trained]:
    """All networks whose files exist, with inputs in `folder`."""
    found = [*trained_here(folder), *not_trained_here()]
    return [t for t in found if t.model.is_file() and (folder / f"{t.name}.held.npz").is_file()]
