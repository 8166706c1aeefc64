# SPDX-License-Identifier: Apache-2.0
"""What a measured time belongs to."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from onnxprune.cost import machine
from onnxprune.cost.machine import Machine, this_machine
from onnxprune.selection.alignment import auto_alignment
from tests.cases.profiles import PI

XEON = "processor\t: 0\nmodel name\t: A Xeon\nflags\t\t: fpu avx2 avx512f hypervisor\n\nprocessor\t: 1\nmodel name\t: Another\n"
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd crc32\nCPU part\t: 0xd08\n"


def with_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    monkeypatch.setattr(machine, "_text", lambda path: files.get(Path(path).name, ""))


def test_this_machine_is_the_same_every_time_and_knows_its_runtime() -> None:
    here = this_machine(2)
    assert here == this_machine(2)
    assert here.key == this_machine(2).key
    assert (here.onnxruntime, here.threads) == (onnxruntime.__version__, 2)
    assert here.processor
    assert not here.differs(this_machine(2))


def test_the_processor_is_named_as_linux_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with_files(monkeypatch, {"cpuinfo": XEON, "scaling_governor": "performance"})
    here = this_machine(1)
    assert (here.processor, here.features, here.governor) == ("A Xeon", ("avx2", "avx512f"), "performance")
    with_files(monkeypatch, {"cpuinfo": ARM, "model": "Raspberry Pi 4 Model B Rev 1.4"})
    here = this_machine(1)
    assert (here.processor, here.features) == ("Raspberry Pi 4 Model B Rev 1.4, part 0xd08", ("asimd",))
    with_files(monkeypatch, {})
    assert this_machine(1).processor
    assert this_machine(1).features == ()


@pytest.mark.parametrize(("flags", "multiple"), [("avx2 fma", 8), ("avx2 avx512f", 16)])
def test_without_a_profile_the_processor_decides(flags: str, multiple: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_files(monkeypatch, {"cpuinfo": f"flags\t\t: {flags}\n"})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    auto_alignment.cache_clear()
    assert auto_alignment().multiple == multiple
    auto_alignment.cache_clear()


@pytest.mark.parametrize("name", [f.name for f in fields(Machine)])
def test_any_difference_makes_another_machine(name: str) -> None:
    changed: dict[str, Any] = {name: {"threads": 1, "features": ("asimd", "i8mm")}.get(name, "another")}
    other = replace(PI, **changed)
    assert other.key != PI.key
    assert PI.differs(other).startswith(f"{name} ")
    assert " instead of " in PI.differs(other)
