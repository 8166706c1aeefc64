#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train ResNet-20 on Fashion-MNIST and export it with BatchNormalization kept.

Writes, beside this script:
  resnet20-fashion-mnist.onnx    input [N, 1, 28, 28] float32 in [0, 1], output [N, 10] logits
  resnet20-fashion-mnist.npz     a sample of the test set: images and labels
  resnet20-fashion-mnist.json    how it was made and the accuracy on the whole test set

The loss is cross entropy + `l1_weights` * sum |W| + `l1_scales` * sum |gamma|, the sparsity term of CCPrune (Chen et al.,
Neurocomputing 2021); the coefficients are our own choice.

The data set is read from idx files, gzipped or not: Debian's package `dataset-fashion-mnist` puts them into
/usr/share/datasets/fashion-mnist; any other folder that holds the four files can be named with --data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
STEM = "resnet20-fashion-mnist"
MEAN, STD = 0.2860, 0.3530


def read_idx(folder: pathlib.Path, stem: str) -> np.ndarray:
    """The array of one idx file (format: yann.lecun.com, MNIST), plain or gzipped."""
    plain, packed = folder / stem, folder / f"{stem}.gz"
    if plain.exists():
        raw = plain.read_bytes()
    elif packed.exists():
        raw = gzip.decompress(packed.read_bytes())
    else:
        raise SystemExit(
            f"{folder}: found neither {stem} nor {stem}.gz; install Debian's dataset-fashion-mnist, or name a folder: --data"
        )
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 for 28 x 28 grey images: stages of 16, 32 and 64 channels, three blocks each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv((x - MEAN) / STD)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def l1_penalty(model: nn.Module, weights: float, scales: float) -> Tensor:
    """`weights` * sum |W| over convolutions + `scales` * sum |gamma| over BatchNorms."""
    total = torch.zeros(())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            total = total + weights * module.weight.abs().sum()
        elif isinstance(module, nn.BatchNorm2d):
            total = total + scales * module.weight.abs().sum()
    return total


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random mirror and a shift of up to two pixels, one draw an image."""
    n = len(images)
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (2, 2, 2, 2))
    rows = torch.randint(0, 5, (n, 1), generator=generator) + torch.arange(28)
    columns = torch.randint(0, 5, (n, 1), generator=generator) + torch.arange(28)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1]."""
    model.eval()
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return int(torch.stack(hits).sum()) / len(labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> None:
    """SGD with a one-cycle schedule; bfloat16 arithmetic where the processor has it."""
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.SGD(model.parameters(), options.rate, 0.9, weight_decay=5e-4, nesterov=True)
    steps = options.epochs * (len(images) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, steps)
    for epoch in range(options.epochs):
        model.train()
        start = time.perf_counter()
        for batch in torch.randperm(len(images), generator=generator).split(options.batch):
            if len(batch) < options.batch:
                continue
            x = augment(images[batch], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[batch]) + l1_penalty(model, options.l1_weights, options.l1_scales)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{options.epochs}  loss {loss.item():.3f}  {time.perf_counter() - start:.0f} s", flush=True)


def export(model: nn.Module, path: pathlib.Path) -> None:
    """Write ONNX with BatchNormalization kept: eval mode, and training=PRESERVE so that the exporter does not fold it."""
    model.eval()
    torch.onnx.export(
        model.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 1, 28, 28),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--l1-weights", type=float, default=1e-5)
    parser.add_argument("--l1-scales", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1000, help="test images that go into the .npz")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    def load(part: str) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(read_idx(options.data, f"{part}-images-idx3-ubyte").copy())[:, None].float() / 255
        return images, torch.from_numpy(read_idx(options.data, f"{part}-labels-idx1-ubyte").astype(np.int64))

    images, labels = load("train")
    model = ResNet20().to(memory_format=torch.channels_last)
    train(model, images, labels, options)

    test_images, test_labels = load("t10k")
    result = {"test_accuracy": accuracy(model, test_images, test_labels), **vars(options)}
    print(json.dumps(result, default=str))
    export(model, options.out / f"{STEM}.onnx")
    np.savez_compressed(
        options.out / f"{STEM}.npz",
        image=test_images.numpy()[: options.samples],
        label=test_labels.numpy()[: options.samples],
    )
    kept = {k: v for k, v in result.items() if k not in {"data", "out"}}
    (options.out / f"{STEM}.json").write_text(json.dumps(kept | {"torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
