# SPDX-License-Identifier: Apache-2.0
"""Signals, closed streams and what killed runs leave: one line, a status that pipelines know, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxprune.cli import signals
from onnxprune.cli.app import run
from onnxprune.errors import ModelError
from tests.cases.nets import write

PROGRAM = [sys.executable, "-m", "onnxprune"]
ROOT = Path(__file__).resolve().parents[2]
WAITING = """
import sys, time
import numpy as np

def feeds():
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
    yield {"x": np.ones((1, 3, 8, 8), np.float32)}

def deaf():
    try:
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    while True:
        yield {"x": np.ones((1, 3, 8, 8), np.float32)}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a model and a module; the temporary folder is in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    write(tmp_path)
    (tmp_path / "mine.py").write_text(WAITING)
    yield tmp_path


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in str(p))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("function", ["feeds", "deaf"])
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGHUP, 129, "ended by SIGHUP")],
)
def test_a_signal_ends_the_run_in_one_line(number: signal.Signals, status: int, said: str, function: str, folder: Path) -> None:
    before = left(folder)
    command = [*PROGRAM, "net.onnx", "--ratio", "0.5", "--data", f"mine:{function}", "--samples", "8", "-o", "a.onnx"]

    def hear() -> None:  # a shell that runs the tests in the background ignores some of them
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear) as run:
        assert run.stderr is not None
        while "ready" not in (line := run.stderr.readline()):
            assert line
        run.send_signal(number)
        out, err = run.communicate(timeout=50)
    assert (run.returncode, out) == (status, "")
    assert err.splitlines()[-1] == f"onnxprune: {said}; nothing was written"
    assert all(line.startswith("onnxprune: ") for line in err.splitlines())
    assert left(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_while_modules_load_is_no_traceback(folder: Path) -> None:
    code = """
import os, signal, sys

class Sends:
    sent = False

    def find_spec(self, name, path=None, target=None):
        if name == "numpy" and not Sends.sent:
            Sends.sent = True
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Sends())
from onnxprune.cli.start import main
try:
    main(["--version"])
finally:
    print("sent" if Sends.sent else "not sent")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (130, "sent\n")
    assert run.stderr == "onnxprune: interrupted; nothing was written\n"


def test_an_ignored_hangup_stays_ignored(folder: Path) -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from onnxprune.cli import signals; signals.install(); os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "alive\n"


SHORT = ["net.onnx", "--ratio", "0.5", "--no-bench", "--recover", "none", "-o", "a.onnx"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_comes_after_the_files(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([*PROGRAM, *SHORT], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "onnxprune: standard output: No space left on device; a.onnx, a.plan.json were written\n"
    assert (run.returncode, run.stderr) == (2, said)
    assert (folder / "a.onnx").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(closed: str, folder: Path) -> None:
    command = " ".join([*PROGRAM, *SHORT, "--format", "json", closed])
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert (folder / "a.onnx").exists()
    assert run.stdout.startswith("{") == (closed == "2>&-")


@pytest.mark.parametrize("more", [[], ["--format", "json"]])
def test_a_reader_that_goes_ends_the_run_quietly(more: list[str], folder: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    run = subprocess.run([*PROGRAM, *SHORT, *more], stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (run.returncode, run.stderr) == (141, "")
    assert (folder / "a.onnx").exists()


def test_names_that_the_terminal_cannot_show_are_escaped(folder: Path) -> None:
    (folder / "net.onnx").rename(folder / "n\u00e9t.onnx")
    command = ["n\u00e9t.onnx", *SHORT[1:-1], os.fsdecode(b"\xff.onnx")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([*PROGRAM, *command], capture_output=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"n\\xe9t.onnx" in run.stdout


def test_the_next_run_removes_what_a_killed_one_left(folder: Path) -> None:
    gone = int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True).stdout)
    for place in (folder / "tmp" / f"onnxprune-{gone}-abcdefgh", folder / f".onnxprune-{gone}-abcdefgh"):
        place.mkdir()
        (place / "weights").write_bytes(bytes(1000))
    run = subprocess.run([*PROGRAM, *SHORT], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert left(folder) == ["a.onnx", "a.plan.json", "mine.py", "net.onnx", "tmp"]


def test_what_cannot_be_removed_is_reported(folder: Path) -> None:
    import fcntl

    place = folder / f".onnxprune-{os.getpid()}-abcdefgh"
    place.mkdir()
    os.utime(place, (0, 0))  # old, but somebody has it locked
    holder = os.open(place, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    run = subprocess.run([*PROGRAM, *SHORT], capture_output=True, text=True, check=False)
    os.close(holder)
    assert run.returncode == 0
    assert run.stderr.startswith(f"onnxprune: note: {place.name}: may be in use by another machine")
    assert run.stderr.count("\n") == 1
    assert place.is_dir()


def test_a_signal_that_a_library_turns_into_an_error_is_still_a_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        signals._arrived.append(signal.SIGTERM)
        raise ModelError("the model: cannot be read")

    monkeypatch.setattr("onnxprune.pipeline.prune.analyse", fails)
    monkeypatch.setattr(signals, "_arrived", [])
    assert run([str(write(tmp_path)), "--ratio", "0.5", "--no-bench", "--recover", "none"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "onnxprune: ended by SIGTERM; nothing was written\n"
