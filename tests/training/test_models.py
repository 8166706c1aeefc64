# SPDX-License-Identifier: Apache-2.0
"""The networks, data sets and training loop in models/: sizes, bytes, and what a training must and must not do."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import onnxprune
from models import train as command
from models.checkpoints import Checkpoint
from models.datasets import CIFAR, Data, Split, augmented, cifar10, fashion_mnist, read
from models.networks import NETWORKS
from models.sparsities import SPARSITIES, settled, sparsity_of
from models.training import Epoch, Settings, accuracy, inputs, train
from onnxprune.errors import DataError, OptionError, TrainingError
from onnxprune.ort import session
from onnxprune.training import apply_plan, exported
from onnxprune.training.sparsity import L1, Unification

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ROOT / "models" / "resnet20-fashion-mnist.onnx"
SMALL = {"resnet20": 0.5, "resnet56": 0.5, "resnet50": 0.125, "vgg19": 0.125, "mobilenetv2": 0.25}
"""Widths at which each network is cut in a second or two."""


# Networks


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet56", 0.85), ("vgg19", 20.0), ("mobilenetv2", 2.24), ("resnet50", 23.5)],
)
def test_networks_have_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    count = sum(p.numel() for p in NETWORKS[name](channels=3).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 40)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_grey_and_colour_images_of_any_size(name: str, channels: int, size: int) -> None:
    network = NETWORKS[name](7, channels, SMALL[name]).eval()
    with torch.no_grad():
        assert network(torch.rand(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_follow_a_cut(name: str) -> None:
    torch.manual_seed(0)
    network, example = NETWORKS[name](channels=1, width=SMALL[name]).eval(), torch.rand(2, 1, 28, 28)
    result = onnxprune.prune(exported(network, example), macs="60%", recover="none", bench=False, verify=False)
    before = sum(p.numel() for p in network.parameters())
    apply_plan(network, result.plan, example_inputs=example)  # compares outputs
    assert sum(p.numel() for p in network.parameters()) < 0.9 * before


def test_half_the_width_is_a_quarter_of_the_weights() -> None:
    counts = [sum(p.numel() for p in NETWORKS["vgg19"](width=w).parameters()) for w in (1.0, 0.5)]
    assert counts[1] / counts[0] == pytest.approx(0.25, rel=0.01)


def test_resnet20_has_the_names_of_the_trained_file() -> None:
    model = onnx.load(TRAINED)
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    network = NETWORKS["resnet20"](mean=(0.2860,), std=(0.3530,)).eval()
    missing, unexpected = network.load_state_dict(stored, strict=False)
    assert not unexpected
    assert missing == ["layer2.0.shortcut.1.bias", "layer3.0.shortcut.1.bias"]  # equal to bn2.bias, so the file has one of them
    for name in missing:
        network.get_parameter(name).data.copy_(stored[name.replace("shortcut.1", "bn2")])
    x = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    [expected] = session(model.SerializeToString()).run(None, {"image": x})
    with torch.no_grad():
        assert np.abs(network(torch.from_numpy(x)).numpy() - expected).max() < 1e-4


# Data sets


def random_images(n: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, packed: bool = False) -> None:
    for stem, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        raw = idx(array)
        path = folder / (f"{stem}.gz" if packed else stem)
        path.write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_and_divided(tmp_path: Path, packed: bool) -> None:
    (images, labels), test = random_images(12, (5, 4)), random_images(3, (5, 4), 1)
    write_idx(tmp_path, "train", images, labels, packed)
    write_idx(tmp_path, "t10k", *test, packed)
    data = read(tmp_path, held=4)
    assert data.shape == (1, 5, 4)
    both = torch.cat([data.train.images, data.held.images])[:, 0].numpy()
    assert (len(data.train), len(data.held)) == (8, 4)
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in images)  # each image is in one part
    known = {x.tobytes(): y for x, y in zip(images, labels, strict=True)}
    assert [known[x.numpy().tobytes()] for x in data.held.images[:, 0]] == data.held.labels.tolist()
    assert torch.equal(read(tmp_path, held=4).held.images, data.held.images)  # the same ones are held out in every run
    assert np.array_equal(data.read_test().images[:, 0].numpy(), test[0])
    assert data.read_test().labels.tolist() == test[1].tolist()


def test_test_images_are_read_only_when_asked_for(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", *random_images(12, (5, 4)))
    data = fashion_mnist(tmp_path, held=4)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte"):
        data.read_test()


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_binary_files_of_cifar10_are_read(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    parts = [random_images(4, (3, 32, 32), k) for k in range(6)]
    for name, (images, labels) in zip(CIFAR, parts, strict=True):
        (folder / name).write_bytes(b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True)))
    data = read(tmp_path, held=5)
    assert (data.name, data.shape, len(data.train), len(data.held)) == ("cifar10", (3, 32, 32), 15, 5)
    assert torch.equal(data.read_test().images, torch.from_numpy(parts[-1][0]))
    assert data.read_test().labels.tolist() == parts[-1][1].tolist()


def test_files_of_torchvision_are_found_where_it_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    write_idx(raw, "train", *random_images(12, (5, 4)))
    assert read(tmp_path, held=4).name == "fashion-mnist"

    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DataError, match=r"cifar-10-batches-py: is read by torchvision, which cannot be imported: .*binary"):
        read(tmp_path, held=4)

    images, labels = random_images(12, (3, 32, 32))

    class Cifar:
        """torchvision's, with images (n, height, width, channels)."""

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert (root, download) == (str(tmp_path), False)
            if not train:
                raise RuntimeError("Dataset not found or corrupted.\nMore.")
            self.data, self.targets = images.transpose(0, 2, 3, 1), labels.tolist()

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(CIFAR10=Cifar))
    data = read(tmp_path, held=4)
    assert (data.name, data.shape, len(data.train)) == ("cifar10", (3, 32, 32), 8)
    stored = {x.tobytes(): int(y) for x, y in zip(images, labels, strict=True)}
    assert [stored[x.numpy().tobytes()] for x in data.train.images] == data.train.labels.tolist()
    with pytest.raises(DataError, match=r"torchvision cannot read CIFAR-10: Dataset not found or corrupted"):
        data.read_test()


def test_a_missing_data_set_names_the_package_and_the_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.*apt-get install dataset-fashion-mnist.*data_batch_1.bin"
    ) as e:
        read(tmp_path)
    assert str(tmp_path) in e.value.message
    (tmp_path / CIFAR[0]).write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"data_batch_2.bin is missing; unpack all of cifar-10-binary.tar.gz"):
        cifar10(tmp_path, 1)


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"", "0 bytes"), (b"\x89PNG", "no idx file"), (idx(np.zeros((3, 2, 2), np.uint8))[:-1], "only a part of one")],
)
def test_damaged_idx_files_are_named(tmp_path: Path, raw: bytes, message: str) -> None:
    write_idx(tmp_path, "train", *random_images(3, (2, 2)))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{message}"):
        read(tmp_path)


def test_damaged_packed_and_cifar_files_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", *random_images(3, (2, 2)), packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: cannot be read"):
        read(tmp_path)
    (tmp_path / CIFAR[0]).write_bytes(bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_1.bin: got 3,072 bytes, expected a multiple of 3,073"):
        read(tmp_path)


def test_more_held_out_images_than_there_are(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", *random_images(3, (2, 2)))
    with pytest.raises(DataError, match=r"held-out images: got 3 of 3 training images"):
        read(tmp_path, held=3)


def test_images_are_mirrored_and_shifted_one_by_one() -> None:
    images, shift = torch.from_numpy(random_images(500, (2, 6, 5))[0]), 2
    found = augmented(images, shift, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (shift,) * 4)
    chosen = set()
    for x, y in zip(padded, found, strict=True):
        fits = [
            (down, right, mirror)
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            for mirror in (False, True)
            if torch.equal(y, (x.flip(2) if mirror else x)[:, down : down + 6, right : right + 5])
        ]
        assert len(fits) == 1
        chosen.update(fits)
    assert len(chosen) == 50  # 5 x 5 shifts, mirrored or not, all occur
    assert torch.equal(augmented(images, shift, torch.Generator().manual_seed(0)), found)
    assert not torch.equal(augmented(images, shift, torch.Generator().manual_seed(1)), found)


# Training


class Tiny(nn.Module):
    """A convolution, its BatchNormalization, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x)))
        found: Tensor = self.fc(torch.nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))
        return found


def corners(n: int, seed: int) -> Split:
    """Images (1, 8, 8) with a bright left or right half, top or bottom, and which; a mirror makes no other class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    pixels = rng.integers(0, 120, (n, 1, 8, 8))
    for k, y in enumerate(labels):
        pixels[k, 0, 2 * y : 2 * y + 2] += 120
    return Split(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


DATA = Data("stripes", corners(256, 0), corners(100, 1), lambda: corners(100, 2), (0.0,), (1.0,), 0, 4)
FAST = Settings(epochs=3, batch=32, rate=0.2, cpu=True)


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def test_a_few_steps_lower_the_loss_and_are_reported() -> None:
    network, seen = tiny(), list[Epoch]()
    before = accuracy(network, DATA.held.images, DATA.held.labels)
    epochs = train(network, DATA, FAST, progress=seen.append)
    assert list(epochs) == seen
    assert [e.number for e in epochs] == [1, 2, 3]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].accuracy == accuracy(network, DATA.held.images, DATA.held.labels) > max(0.9, before)


def test_a_seed_repeats_a_training_and_another_does_not() -> None:
    found = []
    for seed in (0, 0, 1):
        network = tiny()
        train(network, DATA, Settings(epochs=1, batch=32, seed=seed, cpu=True))
        found.append(state(network))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("name", ["none", "l1", "growing", "centripetal", "gates"])
def test_a_training_that_was_killed_goes_on_as_if_it_was_not(name: str, keep_best: bool, tmp_path: Path) -> None:
    settings, example = replace(FAST, keep_best=keep_best), inputs(DATA.held.images[:2])

    class KilledError(Exception):
        """In place of a kill."""

    def kill(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KilledError

    def trained(
        progress: Callable[[Epoch], None], checkpoint: Checkpoint | None
    ) -> tuple[dict[str, Tensor], tuple[Epoch, ...]]:
        network = tiny()
        sparsity = sparsity_of(name, network, example, 24, 0.5, 100.0)
        epochs = train(network, DATA, settings, sparsity, progress=progress, checkpoint=checkpoint)
        return state(network), epochs

    seen = list[Epoch]()
    checkpoint = Checkpoint(tmp_path / "training.pt", {"seed": 0})
    expected, epochs = trained(lambda epoch: None, None)
    with pytest.raises(KilledError):
        trained(kill, checkpoint)
    found, again = trained(seen.append, checkpoint)
    assert equal(found, expected)
    assert [e.number for e in seen] == [3]
    assert [(e.number, e.loss, e.accuracy) for e in again] == [(e.number, e.loss, e.accuracy) for e in epochs]
    assert equal(trained(seen.append, checkpoint)[0], expected)  # all epochs are done
    assert len(seen) == 1
    with pytest.raises(OptionError, match=r"training\.pt: was trained with seed 0, now 1"):
        trained(seen.append, Checkpoint(checkpoint.path, {"seed": 1}))


def test_accuracy_takes_bytes_and_numbers_and_leaves_the_mode(tmp_path: Path) -> None:
    network, (images, labels) = tiny().train(), (DATA.held.images, DATA.held.labels)
    with torch.no_grad():
        expected = float((network.eval()(images.float() / 255).argmax(1) == labels).float().mean())
    network.train()
    assert accuracy(network, images, labels) == accuracy(network, inputs(images), labels) == pytest.approx(expected)
    assert network.training


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights() -> None:
    network, kept = tiny(), list[dict[str, Tensor]]()

    def spoiler(images: Tensor, logits: Tensor) -> Tensor:
        return logits.sum() * (float("nan") if kept else 0)  # from the second epoch on

    with pytest.raises(TrainingError, match=r"epoch 2: the loss is nan; the network is as it was before this epoch") as e:
        train(network, DATA, FAST, teacher=spoiler, progress=lambda epoch: kept.append(state(network)))
    assert equal(state(network), kept[-1])
    assert "--rate" in e.value.message


def test_weights_that_overflow_in_the_last_step_are_noticed() -> None:
    network = tiny()
    before = state(network)
    last = Settings(epochs=1, batch=256, rate=1e38, cpu=True)

    def steep(images: Tensor, logits: Tensor) -> Tensor:
        return 1e4 * logits.sum()

    with pytest.raises(TrainingError, match=r"epoch 1: '.*' is NaN or infinite"):
        train(network, DATA, last, teacher=steep)
    assert equal(state(network), before)


def test_the_best_epoch_is_kept_only_if_asked() -> None:
    for keep in (True, False):
        network, after, reached = tiny(), list[dict[str, Tensor]](), list[float]()

        def record(epoch: Epoch, network: nn.Module = network, after: list = after, reached: list = reached) -> None:  # type: ignore[type-arg]
            after.append(state(network))
            reached.append(epoch.accuracy)

        def misleading(images: Tensor, logits: Tensor, after: list = after) -> Tensor:  # type: ignore[type-arg]
            return 5 * logits[:, 0].sub(9).square().mean() if len(after) == 2 else logits.sum() * 0

        train(network, DATA, Settings(epochs=3, batch=32, keep_best=keep, cpu=True), teacher=misleading, progress=record)
        assert max(reached) == reached[1] > reached[2]
        assert equal(state(network), after[1 if keep else 2])


def test_a_network_can_be_trained_cut_and_trained_again() -> None:
    """Accelerate marks what it prepares: what is cut must be prepared anew."""
    network, example = tiny(), inputs(DATA.held.images[:2])
    train(network, DATA, FAST)
    plan = onnxprune.prune(exported(network, example), 0.4, align="none", recover="none", bench=False, verify=False).plan
    apply_plan(network, plan, example_inputs=example)
    assert network.conv.out_channels < 8
    before = state(network)
    train(network, DATA, FAST)
    assert not equal(before, state(network))
    assert vars(network).keys() == vars(tiny()).keys()  # nothing is left behind
    assert accuracy(network, DATA.held.images, DATA.held.labels) > 0.9


def test_sparsity_takes_part_and_weight_decay_leaves_it_alone() -> None:
    scales = []
    for sparsity in (None, L1(0.0, 3e-2)):
        network = tiny()
        train(network, DATA, FAST, sparsity)  # warnings are errors here: also that of weight decay on the same tensors
        scales.append(float(network.bn.weight.detach().abs().sum()))
    assert scales[1] < 0.8 * scales[0]


class Deeper(Tiny):
    """With a layer that is neither the first nor the last."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))  # type: ignore[assignment]


@pytest.mark.parametrize("name", SPARSITIES)
def test_every_sparsity_trains(name: str) -> None:
    torch.manual_seed(0)
    network = Deeper() if name == "unification" else tiny()
    sparsity = sparsity_of(name, network, inputs(DATA.held.images[:2]), 8, 0.5)
    train(network, DATA, Settings(epochs=1, batch=32, cpu=True), sparsity)
    assert (sparsity is None) == (name == "none")
    assert sparsity is None or (sparsity.steps == 8 and sparsity.history)


def test_blocks_are_fixed_in_the_training_and_stay() -> None:
    torch.manual_seed(0)
    network, settings = Deeper(), Settings(epochs=1, batch=32, cpu=True)
    sparsity = sparsity_of("unification", network, inputs(DATA.held.images[:2]), 8, 0.5)
    assert isinstance(sparsity, Unification)
    assert sparsity.end == 6
    train(network, DATA, settings, sparsity)
    assert sparsity.finished
    weight = settled(network, sparsity, inputs(DATA.held.images[:2])).get_parameter("bn.2.weight").detach().numpy()
    numbers = sparsity.divisions["bn.2.weight"].blocks.numbers
    assert all(len(set(np.abs(weight[numbers == k]))) == 1 for k in range(numbers.max() + 1))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(OptionError, match=r"`epochs`: got 0, expected a number above 0"):
        Settings(epochs=0)
    with pytest.raises(DataError, match=r"`batch`: got 512, but there are only 256 training images"):
        train(tiny(), DATA, Settings(batch=512, cpu=True))
    with pytest.raises(OptionError, match=r"`precision`: got fp16, which cannot be used here"):
        train(tiny(), DATA, Settings(precision="fp16", cpu=True))


TWO = """
import os
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from tests.training.test_models import DATA, Tiny
from models.training import Settings, train

def main():
    folder = Path(sys.argv[1])
    PartialState(cpu=True)
    rank, count = PartialState().process_index, PartialState().num_processes
    torch.manual_seed(rank)  # processes begin with different weights
    network = Tiny()
    seen = []
    def watch(images, logits):
        seen.append(images)
        return 0 * logits.sum()
    epochs = train(network, DATA, Settings(epochs=3, batch=32, cpu=True), teacher=watch)
    found = {"state": network.state_dict(), "count": count, "reached": epochs[-1].accuracy, "seen": torch.stack(seen)}
    torch.save(found, folder / f"{rank}.pt")
    PartialState().destroy_process_group()

main()
# DistributedDataParallel leaves threads of the destroyed group behind; one that wakes while Python ends aborts the process
os._exit(0)
"""


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    # on CPUs, too: with --cpu, Accelerate starts one process only (its issue 2741)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += [
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        str(script),
        str(tmp_path),
    ]
    done = subprocess.run(launch, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["count"] == 2
    assert first["seen"].shape == second["seen"].shape == (3 * 256 // 32, 16, 1, 8, 8)  # half of each batch
    assert not set(map(bytes, first["seen"][:8].flatten(0, 1).numpy())) & set(
        map(bytes, second["seen"][:8].flatten(0, 1).numpy())
    )
    assert equal(first["state"], second["state"])
    assert first["reached"] == second["reached"] > 0.9


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# The command


def small_set(folder: Path) -> Path:
    folder.mkdir()
    for part, split in (("train", corners(256, 0)), ("t10k", corners(100, 2))):
        write_idx(folder, part, split.images[:, 0].numpy(), split.labels.numpy().astype(np.uint8))
    return folder


def test_a_cut_of_blocks_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ["train.py", "resnet20", "--sparsity", "unification", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", asked)
    assert command.main() == 2
    assert "--sparsity unification: a cut or an earlier epoch breaks its blocks; use --rounds 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_command_trains_prunes_retrains_exports_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    monkeypatch.setattr("models.train.read", lambda folder: fashion_mnist(folder, 64))
    out, stem = tmp_path / "out", "resnet20-fashion-mnist"
    asked = [
        "resnet20",
        "--width",
        "0.5",
        "--data",
        str(small_set(tmp_path / "data")),
        "--out",
        str(out),
        "--cpu",
        "--epochs",
        "1",
    ]
    asked += ["--batch", "64", "--macs", "60%", "--rounds", "1", "--retrain", "1", "--distill"]
    monkeypatch.setattr(sys, "argv", ["train.py", *asked])
    assert command.main() == 0
    record = json.loads((out / f"{stem}.json").read_text())
    assert record["rounds"][1]["macs"] / record["rounds"][0]["macs"] == pytest.approx(0.6, abs=0.05)
    assert record["asked"]["sparsity"] == "l1"
    samples = np.load(out / f"{stem}.npz")
    for name, key in ((f"{stem}.onnx", "test_accuracy"), (f"{stem}.pruned.onnx", "pruned_test_accuracy")):
        [logits] = session((out / name).read_bytes()).run(None, {"image": samples["image"]})
        assert (logits.argmax(1) == samples["label"]).mean() == pytest.approx(record[key])
    assert (out / f"{stem}.pruned.plan.json").exists()
    assert (out / f"{stem}.png").exists()
    assert capsys.readouterr().out.count("epoch 1/1") == 2

    assert command.main() == 0  # again: nothing is trained
    assert "epoch" not in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["train.py", *asked, "--seed", "1"])
    assert command.main() == 2
    assert "was trained with seed 0, now 1; choose another folder" in capsys.readouterr().err
    for more in (["--retrain-rate", "0.05"], ["--retrain", "2"]):  # rounds that were retrained otherwise
        monkeypatch.setattr(sys, "argv", ["train.py", *asked, *more])
        assert command.main() == 2
        assert "holds rounds of other settings: settings." in capsys.readouterr().err
    (out / "trained.pt").write_bytes((out / "trained.pt").read_bytes()[:1000])
    monkeypatch.setattr(sys, "argv", ["train.py", *asked])
    assert command.main() == 2
    assert "trained.pt: cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", ["--width=0", "--width=-1", "--subset=-3", "--samples=0", "--epochs=0", "--retrain=0", "--rate=nan", "--rounds=-1"]
)
def test_a_number_with_which_nothing_can_be_done_is_refused(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "vgg19", wrong, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as e:
        command.main()
    assert e.value.code == 2
    name, value = wrong.split("=")
    assert f"argument {name}: got {value}, expected" in capsys.readouterr().err


def test_the_command_says_which_data_set_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "vgg19", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert command.main() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: found neither train-images-idx3-ubyte")
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["50", "0%", "100%", "-3%", "half%"])
def test_a_share_that_is_none_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "vgg19", f"--macs={text}", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as e:
        command.main()
    assert e.value.code == 2
    assert "expected a percentage between 0% and 100%" in capsys.readouterr().err
