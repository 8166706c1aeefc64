# SPDX-License-Identifier: Apache-2.0
"""Rounds of cutting and retraining: they reach their goal, resume after a kill, and keep the best."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.errors import OptionError, PruneError, TrainingError
from onnxprune.training import Distillation, Iterated, Retraining, iterate, load_compact
from onnxprune.training.rounds import Round, best_of

ROOT = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    """Two convolutions on a residual stream, and a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.inside = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.back = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = x + self.back(F.relu(self.bn2(self.inside(x))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images with a bright corner, and which one it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    pixels = rng.normal(0, 0.5, (n, 1, 8, 8)).astype(np.float32)
    for k, y in enumerate(labels):
        pixels[k, 0, (y // 2) * 4 : (y // 2) * 4 + 4, (y % 2) * 4 : (y % 2) * 4 + 4] += 1
    return torch.from_numpy(pixels), torch.from_numpy(labels)


FIT, HELD_OUT = images(256, 0), images(128, 1)
EXAMPLE = FIT[0][:2]


def fit(model: nn.Module, steps: int = 30) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    for k in range(steps):
        part = slice(k % 4 * 64, k % 4 * 64 + 64)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(FIT[0][part]), FIT[1][part]))
        optimizer.step()


def retrain(model: nn.Module, task: Retraining) -> None:
    torch.manual_seed(task.number)
    fit(model)


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(HELD_OUT[0]).argmax(1) == HELD_OUT[1]).float().mean())


@pytest.fixture(scope="module")
def trained() -> Net:
    torch.manual_seed(0)
    net = Net()
    fit(net, 60)
    return net


def loop(net: nn.Module, folder: Path, **options: Any) -> Iterated:
    given = {"train": retrain, "evaluate": accuracy, "rounds": 2, "macs": "40%", "align": "none", "bench": False}
    return iterate(net, EXAMPLE, folder=folder, **{**given, **options})


def test_rounds_that_miss_their_goal_or_change_the_original_are_detected(trained: Net, tmp_path: Path) -> None:
    before = {name: t.clone() for name, t in trained.state_dict().items()}
    found = loop(trained, tmp_path, bench=True)
    whole = found.rounds[0].macs
    assert [r.number for r in found.rounds] == [0, 1, 2]
    assert [round(r.macs / whole, 1) for r in found.rounds] == [1.0, 0.6, 0.4]
    assert found.best == found.rounds[-1]
    assert accuracy(found.model) == found.best.metric > 0.9
    assert found.best.speedup is not None
    assert found.rounds[0].metric == accuracy(trained)
    assert all(torch.equal(t, before[name]) for name, t in trained.state_dict().items())
    assert found.table().count("\n") == 4
    found.plot(tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1


def test_the_files_of_a_round_are_one_network(trained: Net, tmp_path: Path) -> None:
    from onnxprune.ort import session

    found = loop(trained, tmp_path, rounds=1)
    again = load_compact(Net(), tmp_path / "round-1.pt").eval()
    with torch.no_grad():
        expected = found.model.eval()(HELD_OUT[0])
        assert torch.equal(again(HELD_OUT[0]), expected)
    [y] = session((tmp_path / "round-1.onnx").read_bytes()).run(None, {"x": HELD_OUT[0].numpy()})
    assert np.abs(y - expected.numpy()).max() < 1e-4


def test_a_linear_schedule_removes_the_same_amount_in_every_round(trained: Net, tmp_path: Path) -> None:
    found = loop(trained, tmp_path, schedule="linear", rounds=2, macs="50%")
    assert [round(r.macs / found.rounds[0].macs, 1) for r in found.rounds] == [1.0, 0.7, 0.5]
    by_ratio = loop(trained, tmp_path / "ratio", rounds=2, ratio=0.5, macs=None, scope="local")
    assert by_ratio.plan.kept["inside.weight"][0].__len__() == 8


def test_a_loop_that_is_called_again_does_not_train_again(trained: Net, tmp_path: Path) -> None:
    first = loop(trained, tmp_path)
    rounds = list[int]()
    (tmp_path / "round-1.onnx").unlink()
    again = loop(trained, tmp_path, train=lambda _model, task: rounds.append(task.number))
    assert not rounds
    assert again.rounds == first.rounds
    assert (tmp_path / "round-1.onnx").exists()
    assert all(
        torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), first.model.state_dict().values(), strict=True)
    )


def test_rounds_of_other_settings_or_weights_are_not_continued(trained: Net, tmp_path: Path) -> None:
    loop(trained, tmp_path, rounds=1)
    with pytest.raises(TrainingError, match="holds rounds of other settings: macs was '40%', now '30%'; choose another folder"):
        loop(trained, tmp_path, rounds=1, macs="30%")
    with pytest.raises(TrainingError, match=r"holds rounds of other settings: settings\.epochs was None, now '3'"):
        loop(trained, tmp_path, rounds=1, settings={"epochs": 3})
    with pytest.raises(TrainingError, match="holds rounds of other settings: the original has other weights"):
        loop(Net(), tmp_path, rounds=1)


def test_below_the_floor_the_loop_stops_and_the_deepest_round_above_it_is_kept(trained: Net, tmp_path: Path) -> None:
    worse = iter([1.0, 1.0, 0.9, 0.4, 0.2, 0.1, 0.0])
    found = loop(trained, tmp_path, rounds=4, floor=0.5, evaluate=lambda _: next(worse))
    assert [r.metric for r in found.rounds] == [1.0, 0.9, 0.2]
    assert found.best.number == 1
    assert found.stopped == "round 2 has 0.2, below the floor of 0.5"
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in trained.parameters())


def test_without_a_floor_the_last_round_is_the_best() -> None:
    rounds = [Round(k, 1, 1, 1, None, metric) for k, metric in enumerate((0.9, 0.8, 0.7))]
    assert best_of(rounds, None).number == 2
    assert best_of(rounds, 0.75).number == 1
    assert best_of(rounds, 0.95).number == 0


def test_a_training_that_diverges_keeps_the_last_good_round(trained: Net, tmp_path: Path) -> None:
    def diverge(model: nn.Module, task: Retraining) -> None:
        if task.number == 2:
            nn.init.constant_(model.get_parameter("inside.weight"), float("nan"))

    found = loop(trained, tmp_path, rounds=3, train=diverge)
    assert [r.number for r in found.rounds] == [0, 1]
    assert found.stopped.startswith("round 2: 'inside.weight' became NaN or infinite in training; use smaller steps")
    assert torch.isfinite(found.model.get_parameter("inside.weight")).all()


def test_a_recovery_without_labels_before_the_retraining_is_better_than_none(trained: Net, tmp_path: Path) -> None:
    def nothing(_model: nn.Module, _task: Retraining) -> None:
        pass

    cut = {"rounds": 1, "train": nothing, "macs": "25%", "criterion": "ccprune"}
    bare = loop(trained, tmp_path / "bare", **cut)
    refitted = loop(trained, tmp_path / "fit", recover="reconstruct", data={"x": FIT[0].numpy()}, **cut)
    assert refitted.best.cut is not None
    assert bare.best.cut is not None
    assert refitted.best.cut > bare.best.cut + 0.1
    restored = load_compact(Net(), tmp_path / "fit" / "round-1.pt")
    assert accuracy(restored) == refitted.best.metric


class Constant(nn.Module):
    """Two of eight channels are always the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.inside, self.head = nn.Conv2d(8, 6, 1, bias=False), nn.Linear(6, 4)
        with torch.no_grad():
            self.bn.weight[:2], self.bn.bias[:2] = 0, 1.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inside(F.relu(self.bn(self.stem(x)))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def test_channels_that_are_always_the_same_go_without_loss(tmp_path: Path) -> None:
    """A plan alone cannot tell a module to add what they contribute; the biases come with the weights."""

    def nothing(_model: nn.Module, _task: Retraining) -> None:
        pass

    torch.manual_seed(0)
    net = Constant().eval()
    expected = net(EXAMPLE)
    found = loop(net, tmp_path, rounds=1, train=nothing, macs="80%", recover="bias", data={"x": FIT[0].numpy()})
    assert found.model.get_parameter("stem.weight").shape[0] == 6
    torch.testing.assert_close(found.model(EXAMPLE), expected, atol=1e-5, rtol=1e-4)


def test_the_original_teaches_in_the_users_loop(trained: Net, tmp_path: Path) -> None:
    """Distillation follows each round's plan: the loss falls while the network is retrained without labels."""
    seen: list[tuple[float, float]] = []

    def learn(model: nn.Module, task: Retraining) -> None:
        teach = Distillation(task.original, model, task.plan)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        losses = []
        for _ in range(20):
            loss = teach(FIT[0], model(FIT[0]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        teach.close()
        seen.append((losses[0], losses[-1]))

    loop(trained, tmp_path, rounds=1, train=learn)
    assert seen[0][1] < 0.5 * seen[0][0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rounds": 0}, "schedule, rounds: got 'exponential', 0"),
        ({"rounds": 2.5}, "schedule, rounds: got 'exponential', 2.5"),
        ({"floor": "80%"}, "floor: got '80%'"),
        ({"floor": float("nan")}, "floor: got nan"),
        ({"train": None}, "train: got NoneType, expected a function"),
        ({"train": lambda *_: Net(), "rounds": 1}, "train: returned something else"),
        ({"evaluate": lambda _: float("nan")}, "evaluate: gave NaN for the original"),
        ({"schedule": "cubic"}, "expected exponential or linear"),
        ({"macs": "0%"}, "macs"),
        ({"ratio": 0.5}, "`ratio`, `macs`: got both"),
        ({"criterium": "l1"}, "did you mean 'criterion'"),
        ({"verify": False}, "verify: is not an option"),
        ({"evaluate": lambda _: "good"}, "evaluate: returned str, expected a number"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(trained: Net, tmp_path: Path, options: Any, says: str) -> None:
    with pytest.raises((OptionError, PruneError), match=says.replace("`", "`")):
        loop(trained, tmp_path / "new", **options)
    assert not list(tmp_path.glob("new/round-1*"))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from tests.training.test_loop import Net, loop, retrain
torch.manual_seed(1)
net = Net()
def train(model, task):
    retrain(model, task)
    if task.number == 2 and len(sys.argv) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
print([r.number for r in loop(net, Path({folder!r}), rounds=3, train=train).rounds])
"""


def test_a_killed_loop_continues_after_its_last_complete_round(tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", code, "kill"], env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == ["round-0.pt", "round-1.pt"]
    before = (tmp_path / "round-1.pt").read_bytes()
    resumed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert resumed.stdout.strip() == "[0, 1, 2, 3]"
    assert (tmp_path / "round-1.pt").read_bytes() == before


TWO = """
import sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from torch import distributed
from tests.training.test_loop import Net, accuracy, loop, retrain
torch.set_num_threads(1)
rank = int(sys.argv[1])
distributed.init_process_group("gloo", "file://{folder}/meeting", timedelta(seconds=60), rank=rank, world_size=2)
torch.manual_seed(1)
found = loop(Net(), Path({folder!r}) / "rounds", rounds=2, evaluate=lambda model: accuracy(model) - rank)
print([r.number for r in found.rounds], found.best.metric, float(sum(p.double().sum() for p in found.model.parameters())))
"""


def test_several_processes_decide_alike_and_one_writes(tmp_path: Path) -> None:
    code = TWO.format(root=str(ROOT), folder=str(tmp_path))
    ranks = [subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=subprocess.PIPE, text=True) for k in (0, 1)]
    first, second = (process.communicate(timeout=120)[0] for process in ranks)
    assert first.startswith("[0, 1, 2] ")
    assert first == second
    assert len(list((tmp_path / "rounds").iterdir())) == 3 * 3 + 1
