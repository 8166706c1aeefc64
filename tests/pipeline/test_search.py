# SPDX-License-Identifier: Apache-2.0
"""A search is never worse than its first trial, the default; it repeats, goes on, and keeps samples and machines apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.cli.app import run
from onnxprune.effort import Effort
from onnxprune.errors import OptionError
from onnxprune.ir.files import load
from onnxprune.ir.tensors import size_of
from onnxprune.options import Options
from onnxprune.pipeline import search as module
from onnxprune.pipeline.candidates import Ground, Settings, choices_of, presets
from onnxprune.pipeline.components import Components
from onnxprune.pipeline.prune import read_data
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.search import SearchOptions, SearchResult, search_loaded
from onnxprune.report.search import STEP
from onnxprune.selection.bounds import LayerRatios
from onnxprune.types import Advance, Array, Feeds, silent, unwatched
from tests.cases.commands import Capture, files, refused
from tests.cases.nets import small, write
from tests.cases.profiles import profile

SAMPLES = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
QUICK: dict[str, Any] = {"recover": "none", "bench": False, "criterion": "l1", "align": "none"}


def found(**more: Any) -> SearchResult:
    return onnxprune.search(small(), {"x": SAMPLES}, **{"macs": "60%", "trials": 14, **QUICK, **more})


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return found()


def test_the_first_trial_is_what_prune_does_and_the_best_is_no_worse(result: SearchResult) -> None:
    plain = onnxprune.prune(small(), macs="60%", data={"x": SAMPLES}, **QUICK)
    place = next(k for k, p in enumerate(result.report.points) if p.candidate.trial == 0)
    assert result.results[place].plan.kept == plain.plan.kept
    losses = {trial: lost for trial, _, lost in result.report.tried}
    assert min(losses.values()) < losses[0]
    assert result.report.best.loss <= result.report.points[place].loss


def test_every_point_holds_all_targets_and_is_what_its_file_holds() -> None:
    both = found(macs="60%", params="50%")
    assert not both.report.missed
    assert [c.within for c in both.report.front] == [True] * len(both.report.front)
    for point, one in zip(both.report.points, both.results, strict=True):
        assert {t.name: t.met for t in one.report.targets} == {"macs": True, "params": True}
        assert (one.report.macs.kept <= 0.6, one.report.params.kept <= 0.5) == (True, True)
        assert point.costs["macs"] == one.report.macs.after
        assert point.kept == pytest.approx(one.report.macs.kept)
        assert point.costs["size"] == one.report.bytes.after == len(one.model.SerializeToString())


def test_the_size_that_a_trial_states_is_that_of_its_file() -> None:
    sized = found(macs=None, size="50%", trials=8)
    for point, one in zip(sized.report.points, sized.results, strict=True):
        assert point.candidate.costs["size"] == point.costs["size"] == len(one.model.SerializeToString())


def test_points_of_the_front_come_first_and_beat_each_other_nowhere(result: SearchResult) -> None:
    points = result.report.points
    front = [p for p in points if p.front]
    assert front == list(points[: len(front)])
    assert [p.loss for p in front] == sorted(p.loss for p in front)
    assert [p.kept for p in front] == sorted((p.kept for p in front), reverse=True)
    assert all(any(q.loss <= p.loss and q.kept * STEP < p.kept for q in front) for p in points)


def test_a_search_repeats_and_goes_on_after_a_stop(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found().report.tried == result.report.tried
    assert found(seed=1).report.tried != result.report.tried
    place, candidate, count = tmp_path / "j", Ground.candidate, [0]

    def interrupted(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return candidate(*arguments)

    monkeypatch.setattr(Ground, "candidate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        found(storage=place)
    again = found(storage=place)
    assert (again.report.resumed, count[0]) == (5, 6 + 14 - 5)
    assert [t[1:] for t in again.report.tried][:5] == [t[1:] for t in result.report.tried][:5]
    assert found(storage=place).report.resumed == 14


def test_no_sample_serves_for_two_things() -> None:
    data = read_data(load(small()), options(), Effort(), silent)
    assert data is not None
    parts = module._split(data, 0)
    values = {name: {x.tobytes() for x in getattr(parts, name).chunks[0]["x"]} for name in ("scored", "judged", "held_out")}
    assert sum(map(len, values.values())) == len(SAMPLES) == len(set().union(*values.values()))
    assert {x.tobytes() for x in parts.own.chunks[0]["x"]} == values["scored"] | values["judged"]


def options(**more: Any) -> Options:
    return resolved(Options.of(**{"data": {"x": SAMPLES}, "macs": "60%", **QUICK, **more}))


def test_settings_are_what_the_parameters_of_a_trial_state() -> None:
    names = ["w1", "w[2]"]
    choices = choices_of(options(), None, names)
    assert choices["criterion"] == ("l1",)
    assert all(set(p) == set(choices) for p in presets(choices))
    settings = Settings("l1", "local", "mean", 0.2, 0.5, {"w[2]": 1.6, "w1": 0.6})
    assert Settings.of(settings.params(names)) == settings
    selection = settings.selection(options().selection, {"w1": 0.5, "w[2]": 0.5}, "here")
    ratios = selection.layer_ratios
    assert isinstance(ratios, LayerRatios)
    bounds = [ratios.of([name]) for name in ("w[2]", "w1", "other")]
    assert [(b.least, round(b.most, 6)) for b in bounds] == [(0.8, 1.0), (0.2, 0.3), (0.2, 1.0)]
    assert selection.macs == "30%"


class Clockwork:
    """A runner whose models take as long as they have bytes; it remembers how often it ran."""

    def __init__(self, pace: float) -> None:
        self.pace, self.runs = pace, 0

    def __call__(
        self, models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance = unwatched
    ) -> Array:
        self.runs += 1
        return np.array([[self.pace * (size_of(m) + 2000) for m in models]] * 9)


def timed(place: Path, clockwork: Clockwork) -> SearchResult:
    given = options(macs=None, latency="70%", bench=True)
    how = SearchOptions(str(place), "s", trials=4, best=1)
    return search_loaded(load(small()), given, how, components=Components(run=clockwork, profile=lambda *_: profile()))


def test_machines_share_one_model_of_the_latency_and_measure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = Clockwork(1e-6), Clockwork(1e-6), Clockwork(5e-6)
    one = timed(tmp_path / "j", first)
    same = timed(tmp_path / "j", again)
    assert again.runs <= first.runs - 26, "what was timed before is not timed again"
    assert one.report.tried == same.report.tried
    assert one.report.best.costs["latency"] <= 0.7 * one.report.original["latency"] * 1.001
    monkeypatch.setattr(module, "machine", lambda threads: {"name": "another", "processor": "slow"})
    away = timed(tmp_path / "j", other)
    assert away.report.tried == one.report.tried
    assert other.runs > again.runs + 20, "its own latencies are measured with a model of its own"
    assert away.report.original["latency"] == pytest.approx(5 * one.report.original["latency"])
    assert (away.report.machine["name"], away.report.made_on) == ("another", one.report.made_on)


def test_what_another_study_is_for_is_seen_before_any_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "j"
    found(storage=place, study="s", trials=2)
    for more, what in (({"macs": "50%"}, "target"), ({"criterion": "l2"}, "criterion"), ({"seed": 3}, "seed")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "read_data", lambda *_: pytest.fail("data was read"))
            with pytest.raises(OptionError, match=f"made with another {what}"):
                found(storage=place, study="s", trials=2, **more)
    with pytest.raises(OptionError, match="made with another data"):
        onnxprune.search(small(), {"x": SAMPLES[:30]}, macs="60%", storage=place, study="s", **QUICK)
    with pytest.raises(OptionError, match="made with another model"):
        onnxprune.search(small(1), {"x": SAMPLES}, macs="60%", storage=place, study="s", **QUICK)


def test_a_budget_that_cannot_be_met_gives_the_nearest_model() -> None:
    tight = found(macs="3%", trials=5)
    assert tight.report.missed
    assert tight.report.best.kept == min(p.kept for p in tight.report.points)


def test_time_ends_a_search() -> None:
    assert SearchOptions.of("90s").most == float("inf")
    assert (SearchOptions.of("90s", trials=7).most, SearchOptions().most) == (7, module.TRIALS)
    assert found(trials=None, time_budget=1.0).report.trials >= 1


def test_without_optuna_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['optuna'] = None; from onnxprune.cli.app import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "search", "m.onnx", "--data", "d.npz", "--macs", "50%"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'onnxprune[search]'" in done.stderr


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A short search of a small network."""
    np.savez(tmp_path / "d.npz", x=SAMPLES)
    rest = ["--macs", "60%", "--recover", "none", "--no-bench", "--criterion", "l1", "--align", "none", "--trials", "8"]
    return ["search", str(write(tmp_path)), "--data", str(tmp_path / "d.npz"), *rest]


def test_the_command_writes_what_it_says(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert run([*command, "--picture", str(tmp_path / "s.svg"), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "net.searched.search.json").read_text())
    outputs = [p["output"] for p in report["points"] if p["output"]]
    written = {Path(p["output"]).name for p in report["points"]} | {Path(p["plan"]).name for p in report["points"]} - {""}
    others = {"net.onnx", "d.npz", "s.svg", "net.searched.search.json", "net.searched.search.journal"}
    assert set(files(tmp_path)) == (written - {""}) | others
    assert outputs[0].endswith("net.searched.onnx")
    for point in report["points"]:
        if point["output"]:
            assert run(["verify", str(tmp_path / "net.onnx"), point["output"], point["plan"]]) == 0
    assert "<svg" in (tmp_path / "s.svg").read_text()
    capsys.readouterr()
    assert "already exists" in refused(command, capsys)
    assert run([*command, "--force"]) == 0
    assert "8 of them before" in capsys.readouterr().out
    assert "made with another target" in refused([*command, "--force", "--params", "50%"], capsys)


def test_a_miss_is_an_exit_status_and_strict_writes_nothing(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    tight = [*command, "--macs", "3%", "--storage", str(tmp_path / "j"), "--trials", "2", "--strict"]
    before = files(tmp_path)
    assert run(tight) == 1
    assert "nothing was written (--strict)" in capsys.readouterr().err
    assert files(tmp_path).keys() == before.keys() | {"j"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--trials", "0"], "--trials: got 0"),
        (["--best", "0"], "--best: got 0"),
        (["--time-budget", "soon"], "--time-budget: got 'soon'"),
        (["--scope", "some"], "--scope: got 'some'"),
        (["--macs", "0%"], "--macs: got '0%'"),
        (["--macs", "9G"], "more than the original has"),
        (["--latency", "50%"], "--no-bench leaves measuring out"),
        (["--samples", "2"], "at least three batches"),
        (["--data", "random"], "search: requires --data"),
        (["--storage", "HERE/no/j"], "no such folder"),
        (["--storage", "sqlite:///HERE/no/s.db"], "unable to open database file"),
        (["--storage", "HERE/d.npz"], "cannot be opened"),
        (["-o", "HERE/o.txt"], "ends in .onnx"),
        (["--picture", "s.png"], "ends in .svg"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_options_give_one_line_and_write_nothing(
    more: list[str], why: str, command: list[str], tmp_path: Path, capsys: Capture
) -> None:
    before = files(tmp_path)
    assert why in refused([*command, *(word.replace("HERE", str(tmp_path)) for word in more)], capsys)
    assert files(tmp_path) == before


def test_without_a_target_there_is_nothing_to_search(command: list[str], capsys: Capture) -> None:
    at = command.index("--macs")
    assert "search: got no target" in refused([*command[:at], *command[at + 2 :]], capsys)


def test_a_latency_above_the_original_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="more than the original takes"):
        given = replace(options(macs=None, latency="9s", bench=True))
        search_loaded(
            load(small()),
            given,
            SearchOptions(str(tmp_path / "j")),
            components=Components(run=Clockwork(1e-6), profile=lambda *_: profile()),
        )
    assert not files(tmp_path)
