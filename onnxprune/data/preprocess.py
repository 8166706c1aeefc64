# SPDX-License-Identifier: Apache-2.0
"""How an image becomes the input of a model: `size=224x224,mean=0.485:0.456:0.406,...`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError, did_you_mean
from onnxprune.ir.graph import Fact
from onnxprune.types import Array

LAYOUTS = ("nchw", "nhwc", "nhw", "chw", "hwc", "hw")
ORDERS = ("rgb", "bgr", "grey")
RESIZES = ("crop", "stretch", "letterbox", "height", "none")
LETTERBOX_GREY = 114.0
ROUND_WIDTH = 32
SHORT = "size=224x224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,scale=255,order=rgb,layout=nchw,resize=crop"


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an input: resized, then (pixel / scale - mean) / std, then laid out.

    Attributes:
        size: height and width; width 0: as wide as the image asks for (with `resize=height`). None: the image's own.
        mean, std: one number, or one a channel in the order of `order`.
        scale: what pixels, 0 to 255, are divided by first.
        order: rgb, bgr, or grey.
        layout: the order of the axes.
        resize: `crop`: shorter side to size / crop, then the centre. `stretch`: to the size, whatever the aspect. `letterbox`:
            to fit inside, the rest filled on both sides. `height`: to the height, as wide as the aspect asks for but at
            most the width, the rest filled on the right (text lines). `none`: as it is.
        crop: share of the shorter side that the centre crop keeps; an image that has the size already is not cropped.
        pad: pixel value of filled parts; None: 114 for letterbox, else what becomes 0.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0
    order: str = "rgb"
    layout: str = "nchw"
    resize: str = "crop"
    crop: float = 0.875
    pad: float | None = None

    def __str__(self) -> str:
        """The text that `parse` reads."""
        size = "" if self.size is None else "x".join(str(n) for n in self.size if n)
        parts = {"size": size, "mean": _listed(self.mean), "std": _listed(self.std), "scale": f"{self.scale:g}"}
        parts |= {"order": self.order, "layout": self.layout, "resize": self.resize}
        parts |= {"crop": f"{self.crop:g}" if self.resize == "crop" else "", "pad": "" if self.pad is None else f"{self.pad:g}"}
        return ",".join(f"{key}={value}" for key, value in parts.items() if value)

    @property
    def channels(self) -> int:
        """1 for grey images, else 3."""
        return 1 if self.order == "grey" else 3

    def __call__(self, image: Any) -> NDArray[np.float32]:
        """The input for a PIL image, without the axis that counts samples."""
        image = image.convert("L" if self.order == "grey" else "RGB")
        resized = np.asarray(_resized(image, self), np.float32)
        pixels = resized.reshape(*resized.shape[:2], self.channels)[..., :: -1 if self.order == "bgr" else 1]
        return self._filled(self._normal(pixels))

    def _filled(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filled up to the size, and laid out."""
        height, width = self.size or x.shape[:2]
        width = width or -(-x.shape[1] // ROUND_WIDTH) * ROUND_WIDTH
        rest = (height - x.shape[0], width - x.shape[1])
        if any(rest):
            before = (0, 0) if self.resize == "height" else (rest[0] // 2, rest[1] // 2)
            whole = np.broadcast_to(self._filling(), (height, width, self.channels)).copy()
            whole[before[0] : before[0] + x.shape[0], before[1] : before[1] + x.shape[1]] = x
            x = whole
        axes = self.layout.removeprefix("n")
        return np.ascontiguousarray({"hwc": x, "chw": x.transpose(2, 0, 1), "hw": x[..., 0]}[axes])

    def _normal(self, pixels: Array) -> NDArray[np.float32]:
        return np.asarray((pixels / self.scale - np.array(self.mean)) / np.array(self.std), np.float32)

    def _filling(self) -> NDArray[np.float32]:
        pad = LETTERBOX_GREY if self.pad is None and self.resize == "letterbox" else self.pad
        return np.zeros(1, np.float32) if pad is None else self._normal(np.full(self.channels, pad))


def _resized(image: Any, how: Preprocess) -> Any:
    """A PIL image in (at most) the size."""
    height, width = how.size or (image.height, image.width)
    if how.size is None or (image.height, image.width) == (height, width):
        return image
    if how.resize == "stretch":
        return _to(image, width, height)
    if how.resize == "height":
        natural = max(1, round(image.width * height / image.height))
        return _to(image, min(natural, width) if width else natural, height)
    if how.resize == "letterbox":
        ratio = min(height / image.height, width / image.width)
        return _to(image, max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    ratio = max(height / image.height, width / image.width) / how.crop
    return _to(image, round(image.width * ratio), round(image.height * ratio), centre=(width, height))


def _to(image: Any, width: int, height: int, centre: tuple[int, int] | None = None) -> Any:
    image = image.resize((width, height), resample=2)  # bilinear, with antialiasing where it shrinks
    if centre is None:
        return image
    left, top = (width - centre[0]) // 2, (height - centre[1]) // 2
    return image.crop((left, top, left + centre[0], top + centre[1]))


def default_for(shape: tuple[int, ...], integers: bool = False) -> Preprocess:
    """What the shape of an input suggests: grey for one channel, the layout by where the channels are, the static size.

    Args:
        shape: of the model's input, -1 where open.
        integers: whether the input holds whole numbers; then pixels are not scaled.
    """
    layout = _layout(shape)
    at = {axis: shape[k] for k, axis in enumerate(layout)}
    size = (at["h"], at["w"]) if at["h"] > 0 and at["w"] > 0 else None
    square = size is not None and size[0] == size[1]
    order = "grey" if at.get("c", 1) == 1 else "rgb"
    return Preprocess(
        size, layout=layout, order=order, resize="crop" if square else "stretch", scale=1.0 if integers else 255.0
    )


def _layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "nhwc" if shape[1] not in (1, 3) and shape[3] in (1, 3) else "nchw"
    if len(shape) == 3:
        return "chw" if shape[0] in (1, 3) and shape[0] != shape[1] else "hwc" if shape[2] in (1, 3) else "nhw"
    return "hw"


def parse(text: str, default: Preprocess) -> Preprocess:
    """`key=value,...` over a default.

    Raises:
        DataError: a key or value that means nothing.
    """
    found = settings_of(text)
    if "size" in found and "resize" not in found:
        found["resize"] = "crop" if found["size"][1] in (0, found["size"][0]) else "stretch"
    how = replace(default, **found)
    if how.size and not how.size[1] and how.resize != "height":
        how = replace(how, size=(how.size[0],) * 2)
    _check(how)
    return how


def settings_of(text: str) -> dict[str, Any]:
    """The settings in `key=value,...`, whatever the model.

    Raises:
        DataError: a key or value that means nothing.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in READERS or not equals:
            hint = did_you_mean(key, READERS)
            raise DataError(f"--preprocess: got '{part}'; {hint}expected {', '.join(f'{k}=' for k in READERS)} as in {SHORT}")
        try:
            found[key] = READERS[key](value.strip().lower())
        except ValueError as e:
            raise DataError(f"--preprocess: got '{part}', expected {e}") from None
    return found


def _check(how: Preprocess) -> None:
    for key in ("mean", "std"):
        values = getattr(how, key)
        if len(values) not in (1, how.channels):
            raise DataError(
                f"--preprocess: {key} has {len(values)} numbers, expected 1 or {how.channels} with order={how.order}"
            )
    if how.size is None and how.resize != "none":
        raise DataError(
            "--preprocess: the model leaves the size open; write size=HEIGHTxWIDTH, or resize=none for images as they are"
        )
    if how.layout.endswith("hw") and "c" not in how.layout and how.order != "grey":
        raise DataError(f"--preprocess: layout={how.layout} has no axis for channels; write order=grey, or another layout")


def _listed(values: tuple[float, ...]) -> str:
    return ":".join(f"{v:g}" for v in values)


def _size(text: str) -> tuple[int, int]:
    sizes = text.split("x")
    if len(sizes) > 2 or not all(s.isdigit() and int(s) > 0 for s in sizes):
        raise ValueError("a size such as 224x224 (height x width), or 48 (a square; with resize=height, any width)")
    return int(sizes[0]), int(sizes[1]) if len(sizes) == 2 else 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in text.split(":"))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise ValueError("numbers such as 0.485:0.456:0.406")
    return values


def _positive(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    if min(values) <= 0:
        raise ValueError("numbers above 0")
    return values


def _one(read: Callable[[str], tuple[float, ...]]) -> Callable[[str], float]:
    def single(text: str) -> float:
        values = read(text)
        if len(values) != 1:
            raise ValueError("one number")
        return values[0]

    return single


def _share(text: str) -> float:
    value = _one(_positive)(text)
    if value > 1:
        raise ValueError("a share of the shorter side, above 0 and at most 1")
    return value


def _choice(names: tuple[str, ...]) -> Callable[[str], str]:
    def choose(text: str) -> str:
        text = {"gray": "grey"}.get(text, text)
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return choose


READERS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "mean": _numbers,
    "std": _positive,
    "scale": _one(_positive),
    "order": _choice(ORDERS),
    "layout": _choice(LAYOUTS),
    "resize": _choice(RESIZES),
    "crop": _share,
    "pad": _one(_numbers),
}


def likely_input(facts: dict[str, Fact], where: str) -> tuple[str, Fact]:
    """The input that takes images: the only one.

    Raises:
        DataError: the model has several inputs, or this one cannot hold images.
    """
    if len(facts) > 1:
        raise DataError(
            f"{where}: a folder of images feeds a model with one input, this one has {len(facts)} ({', '.join(facts)}); "
            "give an .npz with one array for each, or module:function"
        )
    name, fact = next(iter(facts.items()))
    if fact.shape is not None and not 2 <= len(fact.shape) <= 4:
        raise DataError(
            f"{where}: '{name}' has shape {list(fact.shape)}, which holds no images; give an .npz or module:function"
        )
    return name, fact
