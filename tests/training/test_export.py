# SPDX-License-Identifier: Apache-2.0
"""The export: BatchNormalization is kept, weights have the module's names, and the file computes what PyTorch does."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import onnxprune
from onnxprune.analysis.analyse import analyse
from onnxprune.errors import OptionError, OutputError, TrainingError
from onnxprune.ir.facts import read_graph
from onnxprune.report.inspection import inspect
from onnxprune.training import export, exported
from onnxprune.training.export import EXPORTERS, check_export, difference
from onnxprune.training.names import named_tensors

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32))


class Plain(nn.Module):
    """Convolutions with BatchNorm, a normalisation and linear layers on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn(self.conv(x))))))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        found: Tensor = self.down(F.gelu(self.up(tokens))).mean(1)
        return found


class Tied(nn.Module):
    """One linear layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(F.relu(self.second(F.relu(self.first(x)))))
        return found


def names(model: ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_batch_norm_is_kept_and_every_weight_has_its_name(exporter: str) -> None:
    """In a fresh module many weights are equal: the exporters store such weights once, and transpose those of linear layers."""
    net = Plain()
    found = exported(net, IMAGES, exporter=exporter)
    used = {name for name in named_tensors(net) if "num_batches" not in name}
    assert names(found) >= used
    assert [n.op_type for n in found.graph.node].count("BatchNormalization") == 2
    for t in found.graph.initializer:
        if t.name in used:
            assert np.array_equal(numpy_helper.to_array(t), named_tensors(net)[t.name].detach().numpy())
    assert check_export(net, IMAGES, found) < 1e-5
    onnx.checker.check_model(found)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_weight_that_layers_share_is_stored_once(exporter: str) -> None:
    net, x = Tied(), torch.randn(2, 8)
    found = exported(net, x, exporter=exporter)
    assert names(found) >= {"first.weight", "last.weight"}
    assert not {n for n in names(found) if n.startswith("second")}
    assert check_export(net, x, found) < 1e-5


def test_the_batch_is_dynamic_only_if_asked() -> None:
    assert exported(Plain(), IMAGES).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    fixed = exported(Plain(), IMAGES, dynamic_batch=False, input_names=["image"], output_names=["logits"])
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert (fixed.graph.input[0].name, fixed.graph.output[0].name) == ("image", "logits")


def test_the_module_is_not_changed_and_its_modes_return(tmp_path: Path) -> None:
    net = Plain().train()
    net.bn2.eval()
    before = copy.deepcopy(net.state_dict())
    assert export(net, IMAGES, tmp_path / "net.onnx") == tmp_path / "net.onnx"
    assert net.training
    assert net.bn.training
    assert not net.bn2.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_wrappers_of_parallel_training_are_looked_through() -> None:
    assert names(exported(nn.DataParallel(Plain()), IMAGES)) == names(exported(Plain(), IMAGES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, on its first compilation
        wrapped = torch.compile(Plain())
    assert isinstance(wrapped, nn.Module)
    assert names(exported(wrapped, IMAGES)) == names(exported(Plain(), IMAGES))


def test_channels_of_an_exported_file_can_be_cut(tmp_path: Path) -> None:
    result = onnxprune.prune(
        str(export(Plain(), IMAGES, tmp_path / "net.onnx")), 0.5, recover="none", bench=False, align="none"
    )
    assert {"conv.weight", "bn.weight", "bn.running_mean", "up.weight"} <= result.plan.kept.keys()


class Fixed(Plain):
    """The number of samples is taken from len, which tracing turns into a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(len(x), 5) + torch.zeros(len(x), 5)


class Chance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x) + torch.rand(4)
        return found


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot run on inputs of shape \[3, 3, 8, 8\].*x.shape\[0\]"):
        export(Fixed(), IMAGES, tmp_path / "net.onnx")
    with pytest.raises(TrainingError, match=r"differs from PyTorch by .* does forward depend on .* chance"):
        export(Chance(), torch.randn(2, 4), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Plain: 'conv.weight' is bfloat16, .* export module.float\(\)"):
        exported(Plain().to(torch.bfloat16), IMAGES.to(torch.bfloat16))
    with pytest.raises(TrainingError, match=r"example_inputs: Plain cannot run on inputs of shape \[2, 4, 8, 8\]"):
        exported(Plain(), torch.zeros(2, 4, 8, 8))
    with pytest.raises(OptionError, match="did you mean 'dynamo'"):
        exported(Plain(), IMAGES, exporter="dynamos")
    with pytest.raises(OptionError, match="example_inputs: got list, expected a tensor"):
        exported(Plain(), [IMAGES.tolist()])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="input_names: got 2 names, expected 1"):
        exported(Plain(), IMAGES, input_names=["a", "b"])
    with pytest.raises(OutputError, match="no such folder"):
        export(Plain(), IMAGES, tmp_path / "nowhere" / "net.onnx")


def stage() -> tuple[nn.Module, ...]:
    """A convolution and a BatchNorm that shifts, as after a training."""
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.bias)
    return nn.Conv2d(3, 3, 3, padding=1, bias=False), norm, nn.ReLU()


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_file_with_folded_batch_norm_is_recognised(tmp_path: Path, dynamo: bool) -> None:
    """Both exporters fold by default; the older one numbers what it has computed, the newer one keeps the name."""
    torch.manual_seed(0)
    net, path = nn.Sequential(*(layer for _ in range(3) for layer in stage())).eval(), tmp_path / "folded.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (IMAGES,), str(path), dynamo=dynamo, verbose=False)
    seen = inspect(analyse(read_graph(onnx.load(path))), "folded")
    kept = inspect(analyse(read_graph(exported(net, IMAGES))), "kept")
    assert (seen.folded, seen.batch_norms) == (True, 0)
    assert (kept.folded, kept.batch_norms) == (False, 3)


@pytest.mark.parametrize(
    ("found", "expected", "gap"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0, np.nan], [1.0, 4.0], np.inf),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.inf], [1.0, np.inf], 0.0),
        ([1.0, 3.0], [1.0, np.inf], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_not_hidden_by_values_that_are_not_numbers(
    found: list[float], expected: list[float], gap: float
) -> None:
    assert difference(np.array(found), np.array(expected)) == gap


class Structured(Plain):
    """The output is no structure that PyTorch knows."""

    def forward(self, x: Tensor) -> Tensor:
        return str(super().forward(x).sum())  # type: ignore[return-value]


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The older exporter prints its graph if it fails."""
    with pytest.raises(TrainingError, match=r"exporter 'torchscript' failed: .*bilinear.*; try exporter='dynamo'"):
        exported(Twofold(), torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TrainingError, match="forward returns str; return a tensor, or a tuple, list or dict of tensors"):
        exported(Structured(), IMAGES)
    with pytest.raises(OptionError, match="input_names, output_names: both have 'a'"):
        exported(Plain(), IMAGES, input_names=["a"], output_names=["a"])
    with pytest.raises(OptionError, match="module: got function, expected a torch"):
        exported(lambda x: x, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"onnxruntime cannot open the exported file: .*; .* export module.float\(\)"):
        export(nn.Conv2d(3, 4, 3).double(), IMAGES.double(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


class Twofold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.both(x, x)
        return found


class Recurrent(nn.Module):
    """Only the last state of the GRU is used, so its first output has no name in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru, self.last = nn.Linear(5, 8), nn.GRU(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.gru(self.first(x))[1][-1])
        return found


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_recurrent_layer_of_which_only_the_state_is_used_is_cut_around(exporter: str) -> None:
    model = exported(Recurrent(), torch.randn(4, 2, 5), exporter=exporter, dynamic_batch=False)
    found = onnxprune.analyze(model)
    assert ("first.weight", 8) in [(group.name, len(group)) for group in found.groups]
    assert any("GRU" in str(pinned.pin) for pinned in found.pinned)
