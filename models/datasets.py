# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST and CIFAR-10 from files, 5,000 training images held out, and random mirrors and shifts.

Nothing is downloaded. Fashion-MNIST (Xiao et al., 2017) is read from its four idx files, gzipped or not, which Debian's package
`dataset-fashion-mnist` installs; CIFAR-10 (Krizhevsky, 2009) from the six files of its "binary version". Both are also found
where torchvision has put them; its files of CIFAR-10 are read by torchvision.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onnxprune.errors import DataError, first_line

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELD = 5_000
"""Training images that are held out: moments (epochs, rounds) are chosen by them, never by the test set."""
SPLIT_SEED = 20_210_423
"""Seed of the choice of those images. It is fixed, so that no network is judged by images that it was trained on."""
CIFAR = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
CIFAR_RECORD = 1 + 3 * 32 * 32
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) of bytes, and their classes (n,)."""

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, positions: Tensor | slice) -> Split:
        """Some of the images."""
        return Split(self.images[positions], self.labels[positions])


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: its name in file names.
        train, held: the images to train on, and those to choose moments by; they share none.
        read_test: reads the test images, which are looked at once, at the end.
        mean, std: of the training images in [0, 1], one of each per channel.
        shift: how many pixels an image is shifted by at most in training.
        classes: number of classes.
    """

    name: str
    train: Split
    held: Split
    read_test: Callable[[], Split] = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int
    classes: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def first(self, count: int) -> Data:
        """At most `count` images for training and as many held out, and test images: for tries."""
        few = slice(0, count)
        return replace(self, train=self.train.at(few), held=self.held.at(few), read_test=lambda: self.read_test().at(few))


def read(folder: Path = DEBIAN, held: int = HELD) -> Data:
    """The data set in a folder: CIFAR-10 if it holds `data_batch_1.bin`, else Fashion-MNIST.

    Args:
        folder: where the files are, or where their folder is: cifar-10-batches-bin, cifar-10-batches-py or FashionMNIST.
        held: number of training images to hold out, chosen at random, but always the same.

    Raises:
        DataError: a file is missing, or is not what its name says.
    """
    inner = folder / "cifar-10-batches-bin"
    cifar = inner if inner.is_dir() else folder
    if (cifar / CIFAR[0]).exists():
        return cifar10(cifar, held)
    if (folder / "cifar-10-batches-py").is_dir():
        return _cifar10(_by_torchvision(folder, True), partial(_by_torchvision, folder, False), held)
    downloaded = folder / "FashionMNIST" / "raw"
    return fashion_mnist(downloaded if downloaded.is_dir() else folder, held)


def fashion_mnist(folder: Path = DEBIAN, held: int = HELD) -> Data:
    """Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 pixels."""
    train, kept = divided(_idx_split(folder, "train"), held)
    return Data("fashion-mnist", train, kept, partial(_idx_split, folder, "t10k"), (0.2860,), (0.3530,), 2)


def cifar10(folder: Path, held: int = HELD) -> Data:
    """CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels."""
    batches = [cifar_batch(folder, name) for name in CIFAR[:-1]]
    joined = Split(torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]))
    return _cifar10(joined, partial(cifar_batch, folder, CIFAR[-1]), held)


def _cifar10(train: Split, read_test: Callable[[], Split], held: int) -> Data:
    kept = divided(train, held)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Data("cifar10", *kept, read_test, mean, std, 4)


def _by_torchvision(folder: Path, train: bool) -> Split:
    """The training or the test images of CIFAR-10 as torchvision stores them: pickled files in cifar-10-batches-py."""
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as e:
        raise DataError(
            f"{folder / 'cifar-10-batches-py'}: is read by torchvision, which cannot be imported: {first_line(e)}; "
            "install it, or unpack cifar-10-binary.tar.gz (CIFAR-10 binary version) instead"
        ) from e
    try:
        found = CIFAR10(str(folder), train=train, download=False)
    except Exception as e:  # torchvision says that files are missing or damaged in errors of many kinds
        raise DataError(f"{folder}: torchvision cannot read CIFAR-10: {first_line(e)}") from e
    return _split(np.asarray(found.data, np.uint8).transpose(0, 3, 1, 2), np.asarray(found.targets))


def divided(split: Split, held: int) -> tuple[Split, Split]:
    """The images to train on, and `held` others.

    Raises:
        DataError: there are not more than `held` images.
    """
    if not 0 < held < len(split):
        raise DataError(f"held-out images: got {held:,} of {len(split):,} training images, expected at least one, but not all")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return split.at(order[held:]), split.at(order[:held])


def read_idx(folder: Path, stem: str) -> Bytes:
    """The array in an idx file of bytes: `folder/stem`, or `folder/stem.gz`.

    Raises:
        DataError: neither exists, or it is not an idx file of bytes.
    """
    path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.exists()), None)
    if path is None:
        raise DataError(
            f"{folder}: found neither {stem} nor {stem}.gz; apt-get install dataset-fashion-mnist, or name with --data the "
            "folder of Fashion-MNIST's four idx files or of CIFAR-10's data_batch_1.bin ... test_batch.bin"
        )
    raw = _contents(path)
    rank = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0  # 0x08: the type code of bytes
    start = 4 + 4 * rank
    shape = np.frombuffer(raw[4:start], ">u4") if rank and len(raw) >= start else np.zeros(0, ">u4")
    if not len(shape) or len(raw) != start + int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path}: got {len(raw):,} bytes that are no idx file of bytes, or only a part of one; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape.astype(np.int64))


def _contents(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as e:
        raise DataError(f"{path}: cannot be read: {e}; fetch it again") from e


def _idx_split(folder: Path, part: str) -> Split:
    images, labels = read_idx(folder, f"{part}-images-idx3-ubyte"), read_idx(folder, f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{folder}: got {part} images {images.shape} and labels {labels.shape}, expected (n, h, w) and (n,)")
    return _split(images[:, None], labels)


def cifar_batch(folder: Path, name: str) -> Split:
    """One of CIFAR-10's binary files: for each image, a byte with its class, then red, green and blue (3, 32, 32).

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / name
    if not path.exists():
        raise DataError(f"{folder}: {name} is missing; unpack all of cifar-10-binary.tar.gz (CIFAR-10 binary version) there")
    raw = np.frombuffer(_contents(path), np.uint8)
    if not len(raw) or len(raw) % CIFAR_RECORD:
        raise DataError(
            f"{path}: got {len(raw):,} bytes, expected a multiple of {CIFAR_RECORD:,} (a class and 32 x 32 x 3 pixels)"
        )
    records = raw.reshape(-1, CIFAR_RECORD)
    return _split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def _split(images: Bytes, labels: Bytes) -> Split:
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


def augmented(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each mirrored or not, and shifted by up to `shift` pixels on both axes; what comes in is 0.

    The draws are made on the CPU, so that a seed gives the same images on every device.
    """
    n, channels, height, width = images.shape
    down, right = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    mirror = torch.rand(n, 1, generator=generator) < 0.5
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    columns = torch.where(mirror, columns.flip(1), columns)
    sample, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    places = sample, channel, rows[:, None, :, None], columns[:, None, None, :]
    padded = torch.nn.functional.pad(images, (shift,) * 4)
    return padded[tuple(place.to(images.device) for place in places)]


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Images read a batch at a time: one indexing operation, where single samples would be stacked."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """The images and labels at some positions."""
        part = self.split.at(torch.tensor(positions))
        return part.images, part.labels


def batches(split: Split, size: int, order: torch.Generator) -> DataLoader[tuple[Tensor, Tensor]]:
    """Whole batches of images and labels, in an order that is drawn in each epoch.

    Raises:
        DataError: there are fewer images than a batch.
    """
    if len(split) < size:
        raise DataError(f"--batch: got {size}, but there are only {len(split):,} training images; use a smaller batch")
    return DataLoader(Batches(split), size, shuffle=True, drop_last=True, collate_fn=_as_it_is, generator=order)


def _as_it_is(batch: Any) -> Any:
    return batch
