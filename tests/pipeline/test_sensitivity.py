# SPDX-License-Identifier: Apache-2.0
"""What each group is worth: figures are those of a cut of it alone, whatever is interrupted or runs side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.coupling import Coupled
from onnxprune.cli.app import run
from onnxprune.data.load import load_data
from onnxprune.errors import CutError, DataError, OptionError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline import sensitivity
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.sensitivity import sensitivity_loaded
from onnxprune.report.sensitivity import Curve, Point, Sensitivity
from onnxprune.rewrite.cut import cut
from onnxprune.selection.bounds import LayerRatios
from onnxprune.types import Mask
from tests.cases.commands import Capture, files
from tests.cases.nets import TRAINED, pruned, small, write

DATA = TRAINED.with_suffix(".npz")
RATIOS = (0.25, 0.5)


def options(**more: Any) -> Options:
    return resolved(Options.of(**{"ratio": 0.0, "data": str(DATA), "samples": 60, "recover": "none", **more}))


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    """The trained network, on sixty samples."""
    return onnxprune.sensitivity(TRAINED, str(DATA), ratios=RATIOS, samples=60)


def test_the_figures_are_those_of_a_cut_of_one_group_alone(found: Sensitivity) -> None:
    assert [len(c.points) for c in found.curves] == [2] * 12
    curve = next(c for c in found.curves if c.group == "layer3.1.conv1.weight")
    model = load(TRAINED).model
    judge = Evaluator(model, load_data(str(DATA), model, samples=60))
    for point in curve.points:
        alone = pruned(TRAINED, layer_ratios={curve.group: point.ratio, "*": 0}, align="none", verify=False)
        judged = judge.judge(alone.model)
        assert point.width == round(64 * (1 - point.ratio))
        assert point.lost == pytest.approx(judged.lost, rel=1e-4)
        assert (point.agreement, point.accuracy) == (judged.agreement, judged.accuracy)
        assert judge.before.accuracy is not None
        assert point.loss == pytest.approx(judge.before.accuracy - (judged.accuracy or 0))
    assert found.what == "points of accuracy"


def test_one_at_a_time_gives_the_same_as_side_by_side(found: Sensitivity) -> None:
    assert onnxprune.sensitivity(TRAINED, str(DATA), ratios=RATIOS, samples=60, jobs=1) == found


def test_what_was_done_is_kept_and_not_done_again(found: Sensitivity, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Sensitivity] = []
    point, made = sensitivity._point, list[Any]()

    def interrupted(one: Any, *rest: Any) -> Point | None:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(one)
        return point(one, *rest)

    monkeypatch.setattr(sensitivity, "_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity_loaded(load(TRAINED), options(), RATIOS, 1, keep=kept.append)
    part = kept[-1]
    assert 0 < sum(len(c.points) for c in part.curves) <= 5
    made.clear()

    def counted(one: Any, *rest: Any) -> Point | None:
        made.append(one)
        return point(one, *rest)

    monkeypatch.setattr(sensitivity, "_point", counted)
    assert sensitivity_loaded(load(TRAINED), options(), RATIOS, 1, part) == found
    assert len(made) == 24 - sum(len(c.points) for c in part.curves)


def test_a_cut_that_a_node_cannot_follow_has_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[float]()

    def refusing(coupled: Coupled, dropped: Mask) -> ModelProto:
        if dropped.sum() > 40:
            raise CutError("cannot", 0)
        return cut(coupled, dropped)

    monkeypatch.setattr(sensitivity, "cut", refusing)
    part = sensitivity_loaded(load(TRAINED), options(), (0.25,), 1, progress=lambda _, share: done.append(share))
    assert 0 < sum(not c.points for c in part.curves) < len(part.curves)
    assert done[-1] == 1.0
    assert "Infinity" not in part.to_json()
    assert "NaN" not in part.to_json()


def test_an_error_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Point:
        raise DataError("broken")

    kept: list[Sensitivity] = []
    monkeypatch.setattr(sensitivity, "_point", fails)
    with pytest.raises(DataError, match="broken"):
        sensitivity_loaded(load(TRAINED), options(), RATIOS, 1, keep=kept.append)
    assert not kept


OTHERS = [({"samples": 50}, "data"), ({"criterion": "l1"}, "criterion"), ({"exclude": "layer1.*"}, "choice of weights")]


@pytest.mark.parametrize(("more", "what"), OTHERS)
def test_a_result_of_other_options_is_not_continued(more: dict[str, Any], what: str, found: Sensitivity) -> None:
    with pytest.raises(OptionError, match=f"made with another {what}"):
        sensitivity_loaded(load(TRAINED), options(**more), RATIOS, known=found)


def test_the_ratio_within_a_loss_ends_before_the_first_cut_that_loses_more() -> None:
    points = [Point(r, 1, 0, None, None, loss) for r, loss in ((0.2, 0.0), (0.4, 0.03), (0.6, 0.01))]
    curve = Curve("w", 10, 0.1, tuple(points))
    assert [curve.ratio_within(most) for most in (0.0, 0.02, 0.05)] == [0.2, 0.2, 0.6]


def noise(folder: Path) -> str:
    np.savez(folder / "in.npz", x=np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32))
    return str(folder / "in.npz")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    """A command on a small network without labels."""
    yield ["sensitivity", str(write(tmp_path)), "--data", noise(tmp_path), "--ratios", "0.25,0.5"]


def test_the_command_writes_what_it_says_and_its_floors_hold(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    floors, picture = tmp_path / "floors.toml", tmp_path / "s.svg"
    assert run([*command, "--max-loss", "20%", "--layer-ratios", str(floors), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "of the original's answers" in out or "of what the original's outputs tell" in out
    assert sorted(files(tmp_path)) == sorted(
        ["net.onnx", "in.npz", "net.sensitivity.json", "net.sensitivity.csv", "floors.toml", "s.svg"]
    )
    result = Sensitivity.read(tmp_path / "net.sensitivity.json")
    with (tmp_path / "net.sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["group"], float(r["ratio"])) for r in rows] == [(c.group, p.ratio) for c in result.curves for p in c.points]
    stated = {name: bounds.least for name, bounds in LayerRatios.read(floors).patterns.items()}
    assert stated == pytest.approx({c.group: 1 - c.ratio_within(0.2) for c in result.curves})
    assert "<svg" in picture.read_text()
    report = pruned(small(), 0.3, layer_ratios=floors, align="none", verify=False).report
    assert all(g.after >= stated[g.name] * g.before - 1e-9 for g in report.groups)


def test_the_command_goes_on_with_its_own_file_and_refuses_others(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert run([*command, "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run([*command[:-1], "0.25,0.5,0.75"]) == 0
    assert len(Sensitivity.read(tmp_path / "net.sensitivity.json").curves[0].points) == 3
    assert run([*command[:-1], "0.5"]) == 0
    assert [p.ratio for p in Sensitivity.read(tmp_path / "net.sensitivity.json").curves[0].points] == [0.25, 0.5, 0.75]
    assert first["format"] == "onnxprune-sensitivity/1"
    capsys.readouterr()
    assert run([*command, "--criterion", "l1"]) == 2
    assert "made with another criterion" in capsys.readouterr().err
    assert run([*command, "--criterion", "l1", "--force"]) == 0
    (tmp_path / "net.sensitivity.json").write_text("{}")
    capsys.readouterr()
    assert run(command) == 2
    assert "is no result of 'onnxprune sensitivity'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--ratios", "0"], "--ratios: got 0"),
        (["--ratios", "a"], "--ratios: got 'a'"),
        (["--ratios", "1"], "--ratios: got 1"),
        (["--jobs", "0"], "--jobs: got 0"),
        (["--max-loss", "1%"], "got one of them, expected both"),
        (["--layer-ratios", "f.toml"], "got one of them, expected both"),
        (["--max-loss", "99%", "--layer-ratios", "f.toml"], "below one half"),
        (["--picture", "s.png"], "ends in .svg"),
        (["-o", "s.csv"], "--output: got 's.csv'"),
        (["--data", "synthetic"], "sensitivity: requires --data"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_options_give_one_line_and_write_nothing(
    more: list[str], why: str, command: list[str], tmp_path: Path, capsys: Capture
) -> None:
    before = files(tmp_path)
    assert run([*command, *more]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert files(tmp_path) == before


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", '{"format": "onnxprune-sensitivity/1"}', '{"format": 1}', "[" * 100_000):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(DataError, match="is no result"):
            Sensitivity.read(tmp_path / "s.json")
