# SPDX-License-Identifier: Apache-2.0
"""Profiles of machines whose steps are known: measured, remembered, and used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.cli.app import run
from onnxprune.cost.machine import this_machine
from onnxprune.cost.profile import Profile
from onnxprune.cost.stacks import KINDS, PRECISIONS
from onnxprune.cost.staircase import Curve
from onnxprune.errors import OptionError
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.components import Components
from onnxprune.pipeline.profile import SIZES, WIDTHS, kept, measured, own_profile, remembered
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.types import Advance, Array, Feeds
from tests.cases.commands import Capture, files, refused
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.profiles import PI, profile, steps_of

QUIET: dict[str, Any] = {"recover": "none", "verify": False}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of few widths, for speed."""
    monkeypatch.setattr("onnxprune.pipeline.profile.WIDTHS", (16, 20, 24, 28, 32))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the user's cache."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("step", [1, 4, 16])
def test_steps_of_a_noisy_machine_are_found(step: int) -> None:
    done = list[float]()
    found = measured(2, steps_of(step, noise=0.05), lambda _, share: done.append(share))
    assert found.multiple == step
    assert {c.kind for c in found.curves} == {*KINDS}
    assert len(found.curves) == len(KINDS) * len(PRECISIONS) * len(SIZES)
    assert all([*c.milliseconds] == [*WIDTHS] for c in found.curves)
    assert found.machine == this_machine(2)
    assert done == sorted(done)
    assert done[-1] == 1.0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("seconds", "sizes"), [(1e-11, 3), (1e-8, 1)])
def test_large_sizes_are_left_out_where_they_take_too_long(seconds: float, sizes: int) -> None:
    found = measured(1, steps_of(4, seconds=seconds), machine=PI)
    assert sorted({c.size for c in found.curves}) == [*SIZES[:sizes]]
    assert found.machine == PI


@pytest.mark.usefixtures("few")
def test_work_of_others_that_slows_some_runs_does_not_count() -> None:
    rng = np.random.default_rng(0)

    def disturbed(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
        times = np.repeat(steps_of(8)(models, feeds, threads, seconds, progress), 3, axis=0)
        return np.asarray(np.where(rng.random(times.shape) < 0.4, 5 * times, times))

    alone = measured(1, steps_of(8))
    others = measured(1, disturbed)
    assert others.curves == alone.curves


def test_a_profile_is_measured_once_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[int]()

    def measure(threads: int, progress: Any) -> Profile:
        made.append(threads)
        return profile(8, this_machine(threads))

    monkeypatch.setattr("onnxprune.pipeline.profile.measured", measure)
    first = own_profile(1)
    assert own_profile(1) == first
    assert made == [1]
    own_profile(2)
    assert made == [1, 2]
    assert len([*cache.iterdir()]) == 2
    remembered(this_machine(1)).write_text('{"format": "onnxprune-profile/0"}')
    assert own_profile(1) == first
    assert made == [1, 2, 1]
    assert Profile.read(remembered(this_machine(1))) == first


def test_a_cache_that_cannot_be_written_is_no_error() -> None:
    assert kept(profile(8)) == profile(8)
    assert not remembered(this_machine(1)).exists()


def test_a_profile_in_the_cache_changes_nothing_silently(cache: Path) -> None:
    kept(profile(4))
    assert [*cache.iterdir()]
    found = pruned(small(), 0.5)
    cached = pruned(small(), 0.5, profile=remembered(this_machine(1)))
    assert "profile" not in found.plan.made_by
    assert found.plan.made_by["align"] == Options.of(ratio=0.5).selection.alignment().multiple
    assert cached.plan.made_by["align"] == 4
    assert cached.plan.made_by["profile"] == profile(4).digest


@pytest.mark.parametrize("multiple", [1, 4, 16, 32])
def test_widths_follow_a_profile_of_any_machine(multiple: int, tmp_path: Path) -> None:
    (tmp_path / "pi.json").write_text(profile(multiple, PI).to_json())
    result = pruned(TRAINED, 0.4, profile=tmp_path / "pi.json")
    widths = pruned(TRAINED, 0.4, align=multiple)
    assert result.report.groups == widths.report.groups
    assert result.report.align_reason == f"measured on {PI.processor}"
    assert pruned(TRAINED, 0.4, profile=profile(multiple, PI)).plan == result.plan


def test_latencies_of_this_machine_and_a_profile_of_another_meet_only_if_the_user_says_so() -> None:
    with pytest.raises(OptionError, match=r"`profile`: was measured elsewhere.*`latency` is measured here.*`other_machine`"):
        onnxprune.prune(small(), latency="50%", profile=profile(4, PI))
    asked = Options.of(**QUIET, latency="50%", profile=profile(4, PI), other_machine=True)

    def halves(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
        return np.array([[0.004, 0.002]] * 7)

    found = prune_loaded(load(small()), resolved(asked), components=Components(run=halves))
    assert found.plan.made_by["profile"] == profile(4, PI).digest
    same = Options.of(**QUIET, latency="50%", profile=profile(4))
    assert resolved(same) == same


def test_curves_that_are_not_of_this_program_are_read_all_the_same(tmp_path: Path) -> None:
    """A kind that a later version times."""
    found = Profile(PI, "2026-11-28", 8, {"float": {"attention": 8}}, (Curve("attention", "float", 64, {16: 1.0}),))
    (tmp_path / "p.json").write_text(found.to_json())
    assert Profile.read(tmp_path / "p.json") == found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command measures a machine with steps of 8."""
    monkeypatch.setattr("onnxprune.pipeline.profile.WIDTHS", tuple(range(16, 66)))
    monkeypatch.setattr("onnxprune.pipeline.profile.SIZES", SIZES[:1])
    monkeypatch.setattr("onnxprune.cli.profile.measured", lambda threads, progress: measured(threads, steps_of(8), progress))


@pytest.mark.usefixtures("machine")
def test_the_command_writes_and_remembers_what_it_says(cache: Path, tmp_path: Path, capsys: Capture) -> None:
    out, picture = tmp_path / "p.json", tmp_path / "p.svg"
    assert run(["profile", "-o", str(out), "--picture", str(picture), "--threads", "2"]) == 0
    shown = capsys.readouterr().out
    assert "multiples of 8 are fast" in shown
    assert "2 threads" in shown
    found = Profile.read(out)
    assert found.machine.threads == 2
    assert Profile.read(remembered(found.machine)) == found
    assert f"wrote {out}, {picture}, {remembered(found.machine)}" in " ".join(shown.split())
    svg = picture.read_text()
    assert "<svg" in svg
    assert run(["profile", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["multiple"] == 8


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--threads", "0"], "--threads: got 0"),
        (["-o", "HERE/no/p.json"], "no such folder"),
        (["-o", "HERE/old.json"], "use --force"),
        (["--picture", "HERE/p.png"], "ends in .svg"),
        (["-o", "HERE/p.svg", "--picture", "HERE/p.svg"], "for both the profile and the picture"),
        (["--format", "xml"], "xml"),
        (["model.onnx"], "unexpected extra argument"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_options_give_one_line_before_anything_is_measured(
    more: list[str], why: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.cli.profile.measured", None)
    (tmp_path / "old.json").write_text("mine")
    before = files(tmp_path)
    assert why in refused(["profile", *(m.replace("HERE", str(tmp_path)) for m in more)], capsys)
    assert files(tmp_path) == before


def test_the_python_function_remembers_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.pipeline.profile.measured", lambda threads, progress: profile(8, this_machine(threads)))
    found = onnxprune.profile(threads=2)
    assert found == own_profile(2)
    with pytest.raises(OptionError, match="`threads`: got 0"):
        onnxprune.profile(threads=0)
