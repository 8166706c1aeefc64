# SPDX-License-Identifier: Apache-2.0
"""Preprocessing of images for a model: `size=224x224,mean=0.485:0.456:0.406,...`."""

from __future__ import annotations

import math
import re
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
MOST_PIXELS = 2**27
"""Maximum number of pixels of a scaled image, and of an input."""
SHORT = "size=224x224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,scale=255,order=rgb,layout=nchw,resize=crop"


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes an input: resize, then (pixel / scale - mean) / std, then arrange the axes.

    Attributes:
        size: height and width. Width 0: as the image's aspect ratio requires (with `resize=height`). None: the image's own.
        mean, std: one number, or one per channel in the order of `order`.
        scale: divisor of the pixel values (0 to 255), applied first.
        order: rgb, bgr, or grey.
        layout: the order of the axes.
        resize: `crop`: scale the shorter side to size / crop, then crop the centre. `stretch`: scale to the size, ignoring the
            aspect ratio. `letterbox`: scale to fit inside the size and pad both sides. `height`: scale to the height, as
            wide as the aspect ratio requires but at most the width, and pad on the right (text lines). `none`: no scaling.
        crop: fraction of the shorter side that the centre crop keeps; an image that already has the size is not cropped.
        pad: pixel value of the padding. None: 114 for letterbox, else the value that becomes 0.
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
        """The settings as text that `parse` reads."""
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
        """The input for a PIL image, without the sample axis.

        Raises:
            ValueError: its pixels are no colours, or it would become too large.
        """
        image = _in_8_bits(image).convert("L" if self.order == "grey" else "RGB")
        resized = np.asarray(_resized(image, self), np.float32)
        pixels = resized.reshape(*resized.shape[:2], self.channels)[..., :: -1 if self.order == "bgr" else 1]
        return self._padded(self.normalised(pixels))

    def _padded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The pixels, padded to the size and with the axes in order."""
        height, width = self.size or x.shape[:2]
        width = width or -(-x.shape[1] // ROUND_WIDTH) * ROUND_WIDTH
        missing = (height - x.shape[0], width - x.shape[1])
        if any(missing):
            before = (0, 0) if self.resize == "height" else (missing[0] // 2, missing[1] // 2)
            whole = np.broadcast_to(self._padding(), (height, width, self.channels)).copy()
            whole[before[0] : before[0] + x.shape[0], before[1] : before[1] + x.shape[1]] = x
            x = whole
        axes = self.layout.removeprefix("n")
        return np.ascontiguousarray({"hwc": x, "chw": x.transpose(2, 0, 1), "hw": x[..., 0]}[axes])

    def normalised(self, pixels: Array | float) -> NDArray[np.float32]:
        """What pixels become; infinite if they become too large."""
        with np.errstate(over="ignore"):
            return np.asarray((np.asarray(pixels) / self.scale - np.array(self.mean)) / np.array(self.std), np.float32)

    def _padding(self) -> NDArray[np.float32]:
        pad = LETTERBOX_GREY if self.pad is None and self.resize == "letterbox" else self.pad
        return np.zeros(1, np.float32) if pad is None else self.normalised(np.full(self.channels, pad))


def _in_8_bits(image: Any) -> Any:
    """An image whose pixels have at most 8 bits per channel; Pillow's own conversion of more cuts them off at 255."""
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; save it with 8 bits per channel")
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    pixels = np.asarray(image).astype(np.int64)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
        raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits per channel")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _resized(image: Any, how: Preprocess) -> Any:
    """A PIL image scaled to at most the size."""
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
    if width * height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels would be scaled to {width}x{height}; choose another resize")
    image = image.resize((width, height), resample=2)  # bilinear, with antialiasing when shrinking
    if centre is None:
        return image
    left, top = (width - centre[0]) // 2, (height - centre[1]) // 2
    return image.crop((left, top, left + centre[0], top + centre[1]))


def default_for(shape: tuple[int, ...], integers: bool = False) -> Preprocess:
    """Settings suggested by the shape of an input: grey for one channel, the layout by the channel axis, the static size.

    Args:
        shape: shape of the model's input, -1 for dynamic sizes.
        integers: whether the input holds integers; pixels are then not scaled.
    """
    layout = _layout(shape)
    at = {axis: shape[k] for k, axis in enumerate(layout)}
    size = (at["h"], at["w"]) if at["h"] > 0 and at["w"] > 0 else None
    square = size is not None and size[0] == size[1]
    order = "grey" if at.get("c", 1) == 1 else "rgb"
    return Preprocess(
        size, layout=layout, order=order, resize="crop" if square else "stretch", scale=1.0 if integers else 255.0
    )


def fitting(how: Preprocess, default: Preprocess, shape: tuple[int, ...]) -> Preprocess:
    """The settings with a size that fits the shape of an input (-1 = dynamic); the default if the layout does not fit."""
    if how.layout != default.layout or how.channels != default.channels:
        return default
    at = {axis: shape[k] for k, axis in enumerate(how.layout)}
    height, width = how.size or (0, 0)
    return replace(how, size=(at["h"] if at["h"] > 0 else height, at["w"] if at["w"] > 0 else width))


def _layout(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "nhwc" if shape[1] not in (1, 3) and shape[3] in (1, 3) else "nchw"
    if len(shape) == 3:
        return "chw" if shape[0] in (1, 3) and shape[0] != shape[1] else "hwc" if shape[2] in (1, 3) else "nhw"
    return "hw"


def parse(text: str, default: Preprocess) -> Preprocess:
    """Settings from `key=value,...`, applied to a default.

    Raises:
        DataError: a key or value is invalid.
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
    """The settings in `key=value,...`, independent of any model.

    Raises:
        DataError: a key or value is invalid.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in READERS or not equals:
            hint = "" if key in READERS else did_you_mean(key, READERS)
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
    pads = () if how.pad is None else (how.pad,)
    if not all(np.isfinite(how.normalised(pixel)).all() for pixel in (0.0, 255.0, *pads)):
        raise DataError("--preprocess: pixels become infinite with these mean, std, scale and pad; expected usual sizes")
    if how.size is None and how.resize != "none":
        raise DataError(
            "--preprocess: the model's input size is dynamic; set size=HEIGHTxWIDTH, or resize=none to keep image sizes"
        )
    if how.layout.endswith("hw") and "c" not in how.layout and how.order != "grey":
        raise DataError(f"--preprocess: layout={how.layout} has no channel axis; set order=grey, or choose another layout")


def _listed(values: tuple[float, ...]) -> str:
    return ":".join(f"{v:g}" for v in values)


def _size(text: str) -> tuple[int, int]:
    sizes = text.split("x")
    if len(sizes) > 2 or not all(re.fullmatch("[0-9]{1,9}", s) and int(s) > 0 for s in sizes):
        raise ValueError("a size such as 224x224 (height x width), or 48 (a square; with resize=height, any width)")
    height, width = int(sizes[0]), int(sizes[1]) if len(sizes) == 2 else 0
    if height * (width or height) > MOST_PIXELS:
        raise ValueError(f"at most {MOST_PIXELS:,} pixels")
    return height, width


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
        raise ValueError("a fraction of the shorter side, above 0 and at most 1")
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


def image_input(facts: dict[str, Fact], where: str) -> tuple[str, Fact]:
    """The only input of a model, which takes images.

    Raises:
        DataError: the model has several inputs, or its only input cannot hold images.
    """
    if len(facts) > 1:
        raise DataError(
            f"{where}: a folder of images requires a model with one input, this one has {len(facts)} ({', '.join(facts)}); "
            "use an .npz with one array per input, or module:function"
        )
    name, fact = next(iter(facts.items()))
    if fact.shape is not None and not 2 <= len(fact.shape) <= 4:
        raise DataError(
            f"{where}: '{name}' has shape {list(fact.shape)}, which cannot hold images; use an .npz or module:function"
        )
    return name, fact
