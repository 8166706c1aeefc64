# SPDX-License-Identifier: Apache-2.0
"""Output files: only regular ones are replaced, and all are written or none, whatever happens."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults as tool
import pytest
from fuzzing import injection

from onnxprune.errors import OptionError, OutputError, PruneError
from onnxprune.ir.placing import check_distinct, check_output, check_outputs, write_text, written_whole
from onnxprune.ir.saving import save
from onnxprune.ir.scratch import HOUR, Scratch, scratch, swept
from tests.cases.commands import files
from tests.cases.nets import small


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def link(path: Path) -> None:
    path.with_name("target").write_text("mine")
    path.symlink_to("target")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        pytest.param(device, "is a device", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")),
        (pipe, "is a named pipe"),
        (listening, "is a socket"),
        (link, "is a symbolic link to target"),
        (dangling, "is a symbolic link to nowhere"),
    ],
)
def test_only_regular_files_are_replaced(
    make: Callable[[Path], None], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = Path(tool.OUT)
    make(path)
    before = path.lstat()
    with pytest.raises(OutputError, match=what):
        check_output(path, True)
    for write in (lambda: write_text(path, "new"), lambda: save(small(), path)):
        with pytest.raises(OutputError, match=what):
            write()
    after = path.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_standard_output_is_refused() -> None:
    with pytest.raises(OutputError, match="not written to standard output"):
        check_output(Path("-"), True)
    with pytest.raises(OutputError, match="symbolic link"):
        check_output(Path("/dev/stdout"), True)


def test_the_same_file_is_recognised_however_it_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to("d")
    for a, b in (("x.onnx", "d/../x.onnx"), ("d/x.json", "e/x.json")):
        with pytest.raises(OptionError, match="for both the model and the plan"):
            check_distinct({"model": tmp_path / a, "plan": tmp_path / b, "picture": None})
    check_distinct({"model": tmp_path / "d/x", "plan": tmp_path / "x"})


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_text(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["new", "old", "drafts"])
def test_an_output_may_have_any_name(name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_text(tmp_path / name, text)
        assert files(tmp_path) == {name: text.encode()}


def test_the_half_of_a_killed_run_does_not_count_as_existing(tmp_path: Path, no_waiting: None) -> None:
    halves = 0
    for point in range(injection.calls(lambda: tool.saved(tmp_path, 1.0, True))):
        for path in tmp_path.iterdir():
            path.unlink()
        injection.killed(lambda: tool.saved(tmp_path, 1.0, True), point)
        if not (tmp_path / tool.PLAN).exists() or (tmp_path / tool.OUT).exists():
            swept(tmp_path)
            continue
        halves += 1
        check_outputs({"model": tmp_path / tool.OUT, "plan": tmp_path / tool.PLAN}, False)
        assert list(tmp_path.iterdir()) == []
    assert halves


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with pytest.raises(OptionError, match="b: already exists"), written_whole(a, b, force=False) as drafts:
        for draft in drafts:
            draft.write_text("mine")
        b.write_text("theirs")
    assert files(tmp_path) == {"b": b"theirs"}


CHANGES = [(None, True), (False, False), (True, True)]
"""Whether the weights of the model that is replaced (None: there is none), and those of the new one, are in another file.
`tools/faults.py` tries all combinations."""


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk, hundreds of times."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=CHANGES, ids=str)
def change(request: pytest.FixtureRequest, tmp_path: Path, no_waiting: None) -> Iterator[tuple[Path, Path, bool]]:
    """A folder for each attempt, the one that holds the state before, and whether the new model has another file."""
    before, external = request.param
    start = tmp_path / "before"
    start.mkdir()
    if before is not None:
        tool.saved(start, 1.0, before)
    yield tmp_path, start, external


faulty = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""A fault right after a file was opened loses the file object, which Python closes later."""


@faulty
def test_a_disk_error_at_any_point_leaves_all_or_nothing(change: tuple[Path, Path, bool]) -> None:
    external = change[2]
    found = {tool.after_error(place, external, point) for point, place in tool.attempts(*change)}
    assert found == {"refused", "done"}


def test_after_a_kill_at_any_point_the_model_loads_and_the_next_run_tidies_up(change: tuple[Path, Path, bool]) -> None:
    external = change[2]
    found = {tool.after_kill(place, external, point) for point, place in tool.attempts(*change)}
    assert found == {"undone", "done"}


@faulty
def test_ctrl_c_while_files_are_moved_waits_until_they_are(tmp_path: Path, no_waiting: None) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    tool.saved(tmp_path, 1.0, False)
    total = injection.calls(lambda: tool.saved(tmp_path, 1.0, False))
    outcomes = set()
    for point in range(0, total, 3):
        tool.saved(tmp_path, 1.0, False)
        with contextlib.suppress(KeyboardInterrupt):
            injection.with_fault(lambda: tool.saved(tmp_path, 2.0, False), point, injection.interrupt)
        found = tool.state(tmp_path)
        assert found in ((1.0, True), (2.0, True)), (point, found)
        outcomes.add(found)
        gc.collect()
        assert sorted(p.name for p in tmp_path.iterdir()) == [tool.PLAN, tool.OUT]
    signal.signal(signal.SIGINT, before)
    assert len(outcomes) == 2


def test_of_several_processes_without_force_one_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from onnxprune.errors import OptionError\n"
        "from onnxprune.ir.placing import written_whole\n"
        "a, b = Path(sys.argv[1]) / 'a', Path(sys.argv[1]) / 'b'\n"
        "try:\n"
        "    with written_whole(a, b, force=sys.argv[3] == 'force') as drafts:\n"
        "        for d in drafts: d.write_text(sys.argv[2])\n"
        "        print('ready', flush=True); sys.stdin.readline()\n"
        "except OptionError: sys.exit(2)\n"
    )
    for force in ("", "force"):
        command = [sys.executable, "-c", code, str(tmp_path)]
        runs = [subprocess.Popen([*command, str(k), force], stdin=-1, stdout=-1, text=True) for k in range(3)]
        for run in runs:
            assert run.stdout is not None
            run.stdout.readline()
        for run in runs:
            assert run.stdin is not None
            run.stdin.write("\n")
            run.stdin.flush()
        for run in runs:
            run.communicate()
        assert sorted(run.returncode for run in runs) == ([0, 0, 0] if force else [0, 2, 2])
        found = files(tmp_path)
        assert found.keys() == {"a", "b"}
        assert found["a"] == found["b"]


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    mine, foreign = (
        f".onnxprune-{int(dead.stdout)}-abcdefgh",
        [".onnxprune-x", "onnxprune-12-abcdefg", ".onnxprune-12-abcdefgh.txt"],
    )
    for name in (mine, *foreign):
        (tmp_path / name).mkdir()
    (tmp_path / f"onnxprune-{int(dead.stdout)}-abcdefgh").symlink_to(foreign[0])
    (tmp_path / mine / "draft").write_text("half")
    with scratch(tmp_path) as alive:
        assert swept(tmp_path) == ()
        assert alive.is_dir()
        os.utime(alive, (0, time.time() - 2 * HOUR))
        assert str(alive) in swept(tmp_path)[0]  # old, but locked
        assert alive.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*foreign, f"onnxprune-{int(dead.stdout)}-abcdefgh"])


def test_a_young_folder_of_a_process_that_lives_is_kept_even_unlocked(tmp_path: Path) -> None:
    place = tmp_path / f".onnxprune-{os.getpid()}-abcdefgh"
    place.mkdir()
    assert swept(tmp_path) == ()
    assert place.is_dir()
    os.utime(place, (0, time.time() - 2 * HOUR))
    assert swept(tmp_path) == ()
    assert not place.exists()


def test_a_scratch_folder_goes_with_its_object_but_not_with_a_forked_process(tmp_path: Path) -> None:
    made = Scratch(tmp_path)
    child = os.fork()
    if child == 0:
        made.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert made.path.is_dir()
    made.close()
    assert not made.path.exists()


@pytest.mark.parametrize("wrong", ["no/such/x.txt", "d"])
def test_a_place_that_cannot_be_written_is_refused(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(PruneError):
        check_output(tmp_path / wrong, True)
