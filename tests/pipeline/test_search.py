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
from onnxprune.cost.size import cost
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
from onnxprune.pipeline.study import Study
from onnxprune.report.search import STEP, Candidate
from onnxprune.selection.bounds import LayerRatios
from onnxprune.types import Advance, Array, Feeds, silent, unwatched
from tests.cases.commands import Capture, files, refused
from tests.cases.nets import residual, small, write
from tests.cases.profiles import PI, profile

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
    assert Settings.of(settings.params(choices)) == settings
    assert settings.params(choices).keys() == choices.keys()
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


DEEP: dict[str, Any] = {**QUICK, "recover": "bias", "macs": "50%", "depth": True}


def deep(place: Path | None = None, **more: Any) -> SearchResult:
    return onnxprune.search(residual(), {"x": SAMPLES}, **{"trials": 14, "study": "s", "storage": place, **DEEP, **more})


def trials_in(place: Path) -> list[Candidate]:
    return [module._candidate(t) for t in Study(str(place), "s", 0).tried()]


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    """A search in which branches may go, and where its trials are."""
    place = tmp_path_factory.mktemp("deep") / "j"
    return deep(place, recover="reconstruct"), place


def test_trials_without_branches_hold_targets_that_are_shares_of_the_original(shortened: tuple[SearchResult, Path]) -> None:
    result, place = shortened
    tried, whole = trials_in(place), cost(residual()).macs
    assert {c.branches for c in tried} == {0, 1, 2, 3}
    assert tried[0].branches == 0
    for c in tried:
        assert c.within == (c.costs["macs"] <= 0.5 * whole)
        assert c.kept == pytest.approx(c.costs["macs"] / whole)
    assert all(any(c.within for c in tried if c.branches == n) for n in range(4))
    assert result.report.branches == ("s3", "s2", "s1"), "what adds least goes first"


def test_finalists_without_branches_are_what_their_plans_say(shortened: tuple[SearchResult, Path], tmp_path: Path) -> None:
    result, _ = shortened
    original, order = write(tmp_path, residual()), result.report.branches
    assert result.report.best.candidate.branches > 0, "branches that add next to nothing go"
    for point, one in zip(result.report.points, result.results, strict=True):
        assert [total for _, total in one.plan.removed] == [*order[: point.candidate.branches]]
        assert one.report.macs.before == cost(residual()).macs
        assert (one.report.macs.kept <= 0.5, point.missed) == (True, False)
        assert one.report.verification is not None
        one.save(tmp_path / "a.onnx", tmp_path / "a.json", force=True)
        assert onnxprune.verify_files(original, tmp_path / "a.onnx", tmp_path / "a.json").error < 1e-4
    plain = onnxprune.prune(residual(), data={"x": SAMPLES}, **{**DEEP, "recover": "reconstruct", "depth": False})
    place = next(k for k, p in enumerate(result.report.points) if p.candidate.trial == 0)
    assert result.results[place].plan.kept == plain.plan.kept, "the default keeps all branches"


def test_what_goes_first_is_decided_once(
    shortened: tuple[SearchResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on with a study, or joins in, takes the branches in the order of the process that began it."""
    result, place = shortened
    copy = tmp_path / "j"
    copy.write_bytes(place.read_bytes())
    monkeypatch.setattr(module, "in_turn", lambda *_: pytest.fail("branches were ranked again"))
    again = deep(copy, trials=16, best=1)
    assert again.report.branches == result.report.branches
    assert (again.report.resumed, again.report.tried[:14]) == (14, result.report.tried)


def test_a_cut_that_needs_a_branch_fails_without_it_and_alone(tmp_path: Path) -> None:
    """Only weights of the branch that goes first may be cut."""
    result = deep(tmp_path / "j", include="wu2", macs="90%")
    assert result.report.failed > 0
    assert {c.branches for c in trials_in(tmp_path / "j")} == {0}


def test_without_depth_there_is_no_such_parameter_and_older_studies_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [*choices_of(options(), None, ["w"])] == ["criterion", "scope", "normalise", "floor", "share", "width w"]
    with monkeypatch.context() as patch:
        since = {"profile", "choice of layer ratios", "depth"}
        asked = module._asked
        patch.setattr(module, "_asked", lambda *a: {k: v for k, v in asked(*a).items() if k not in since})
        deep(tmp_path / "j", depth=False, trials=3)
    assert deep(tmp_path / "j", depth=False, trials=4).report.resumed == 3
    for more, what in (({}, "depth"), ({"depth": False, "layer_ratios": {"w": 0.5}}, "choice of layer ratios")):
        with pytest.raises(OptionError, match=f"made with another {what}"):
            deep(tmp_path / "j", trials=4, **more)


def test_branches_go_within_a_latency_and_what_is_measured_is_within_it() -> None:
    given = resolved(Options.of(**{**DEEP, "macs": None, "latency": "50%", "bench": True}, data={"x": SAMPLES}))
    components = Components(run=Clockwork(1e-6), profile=lambda *_: profile())
    result = search_loaded(load(residual()), given, SearchOptions(None, "s", trials=8, best=2), components=components)
    assert any(c.branches for c in result.report.front)
    assert not result.report.missed
    for p in result.report.points:
        assert p.costs["latency"] <= 0.5 * result.report.original["latency"] * 1.001


def test_ratios_of_layers_hold_in_every_trial_whatever_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"w1": 0.5, "w2": {"keep_at_least": 0.5, "keep_at_most": 0.75}}
    decide, seen, params = Ground.decision, list[dict[str, int]](), set[str]()

    def watched(ground: Ground, settings: Settings) -> Any:
        found = decide(ground, settings)
        seen.append({t.name: t.dims[0] for t in found.pruned.graph.initializer})
        params.update(settings.widths)
        return found

    monkeypatch.setattr(Ground, "decision", watched)
    result = found(layer_ratios=ratios, macs="70%", trials=30)
    assert len(seen) == 30
    assert params == {"w2"}, "what is fixed is no parameter"
    finalists = [{t.name: t.dims[0] for t in one.model.graph.initializer} for one in result.results]
    assert {s["w1"] for s in (*seen, *finalists)} == {8}
    assert {s["w2"] for s in (*seen, *finalists)} <= {6, 7, 8, 9}
    assert len({s["w2"] for s in seen}) > 1
    plain = onnxprune.prune(small(), macs="70%", data={"x": SAMPLES}, layer_ratios=ratios, **QUICK)
    place = next(k for k, p in enumerate(result.report.points) if p.candidate.trial == 0)
    assert result.results[place].plan.kept == plain.plan.kept


def test_a_profile_says_which_widths_trials_have_and_belongs_to_the_study(tmp_path: Path) -> None:
    given = {"align": "auto", "storage": tmp_path / "j", "study": "s", "trials": 6}
    result = found(profile=profile(4), **given)
    assert result.report.asked["profile"] == profile(4).digest
    for one in result.results:
        assert (one.plan.made_by["profile"], one.plan.made_by["align"]) == (profile(4).digest, 4)
    for more in ({"profile": profile(8)}, {}):
        with pytest.raises(OptionError, match="made with another profile"):
            found(**given, **more)


def test_a_given_profile_serves_for_a_latency_too() -> None:
    given = options(macs=None, latency="70%", bench=True, profile=profile(4), align="auto")
    components = Components(run=Clockwork(1e-6), profile=lambda *_: pytest.fail("another profile was asked for"))
    result = search_loaded(load(small()), given, SearchOptions(None, "s", trials=3, best=1), components=components)
    assert {one.plan.made_by["profile"] for one in result.results} == {profile(4).digest}


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


def test_the_command_says_which_branches_may_go(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    place, ratios = write(tmp_path, residual()), tmp_path / "ratios.onnx"
    ratios.write_text('"w" = 0.25')
    command += ["--layer-ratios", str(ratios)]
    assert run([*command, "--depth", "--recover", "bias", "--best", "2"]) == 0
    out = capsys.readouterr().out
    assert "residual branches that may go, the first first: s3, s2, s1" in " ".join(out.split())
    assert "without 3 branches" in " ".join(out.split())
    report = json.loads((tmp_path / "net.searched.search.json").read_text())
    assert report["branches"] == ["s3", "s2", "s1"]
    assert all(isinstance(c["branches"], int) for c in report["front"])
    for point in report["points"]:
        if point["plan"]:
            plan = json.loads(Path(point["plan"]).read_text())
            assert len(plan.get("removed", [])) == point["candidate"]["branches"]
            assert run(["verify", str(place), point["output"], point["plan"]]) == 0
    capsys.readouterr()
    assert "is the input itself" in refused([*command, "-o", str(ratios), "--force"], capsys)


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
        (["--depth"], "--depth: got --recover none"),
        (["--layer-ratios", "HERE/no.toml"], "cannot be read: No such file"),
        (["--layer-ratios", "HERE/d.npz"], "cannot be read"),
        (["--layer-ratios", "HERE/ratios.toml"], "'nothing*' matches no weight"),
        (["--align", "auto", "--profile", "HERE/no.json"], "no.json: cannot be read: No such file"),
        (["--profile", "HERE/pi.json"], "decides what --align auto means"),
        (["--latency", "50%", "--bench", "--profile", "HERE/pi.json"], "but --latency is measured here"),
        (["--other-machine"], "--other-machine: requires --profile"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_options_give_one_line_and_write_nothing(
    more: list[str], why: str, command: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "ratios.toml").write_text('"nothing*" = 0.5')
    (tmp_path / "pi.json").write_text(profile(4, PI).to_json())
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
