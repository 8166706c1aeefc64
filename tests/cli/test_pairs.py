# SPDX-License-Identifier: Apache-2.0
"""A plan and the file that was written with it name each other."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune.cli.app import run
from onnxprune.rewrite.plan import Plan
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import external, small, write


def metadata(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, and what was written by half of its channels."""
    path = write(tmp_path)
    assert run([str(path), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "a.onnx")]) == 0
    return path, tmp_path / "a.onnx", tmp_path / "a.plan.json"


def test_the_plan_states_the_digest_of_the_file_and_the_file_that_of_the_plan(pair: tuple[Path, Path, Path]) -> None:
    _, pruned, plan = pair
    stated = json.loads(plan.read_text())
    assert stated["pruned_sha256"] == hashlib.sha256(pruned.read_bytes()).hexdigest()
    del stated["pruned_sha256"]
    assert metadata(pruned)["onnxprune.version"] == onnxprune.__version__
    assert metadata(pruned)["onnxprune.plan_sha256"] == Plan.from_json(stated).sha256 == Plan.load(plan).sha256


def test_the_size_in_the_report_is_that_of_the_file(tmp_path: Path) -> None:
    for path in (write(tmp_path), small()):
        result = onnxprune.prune(path, 0.5, bench=False, recover="none")
        result.save(tmp_path / "a.onnx")
        assert result.report.bytes.after == (tmp_path / "a.onnx").stat().st_size


def test_other_metadata_is_kept(tmp_path: Path) -> None:
    net = small()
    net.metadata_props.add(key="labels", value="cat")
    net.metadata_props.add(key="onnxprune.version", value="0.0.1")
    path = write(tmp_path, net)
    assert run([str(path), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "a.onnx")]) == 0
    found = metadata(tmp_path / "a.onnx")
    assert (found["labels"], found["onnxprune.version"], len(found)) == ("cat", onnxprune.__version__, 3)
    assert metadata(path) == {"labels": "cat", "onnxprune.version": "0.0.1"}


def test_verify_accepts_what_belongs_together(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, pruned, plan = pair
    packed = tmp_path / "p.onnx.zst"
    assert run([str(path), "--ratio", "0.5", *FAST, "-o", str(packed)]) == 0
    assert run(["apply", str(path), str(plan), "--no-bench", "-o", str(tmp_path / "again.onnx")]) == 0
    assert (tmp_path / "again.onnx").read_bytes() == pruned.read_bytes()
    pairs = ((pruned, plan), (packed, tmp_path / "p.plan.json"), (tmp_path / "again.onnx", plan))
    for file, its_plan in pairs:
        assert run(["verify", str(path), str(file), str(its_plan)]) == 0


def test_verify_refuses_a_stranger_in_one_line(pair: tuple[Path, Path, Path], tmp_path: Path, capsys: Capture) -> None:
    path, pruned, plan = pair
    assert run([str(path), "--ratio", "0.25", *FAST, "-o", str(tmp_path / "b.onnx")]) == 0
    capsys.readouterr()
    said = refused(["verify", str(path), str(tmp_path / "b.onnx"), str(plan)], capsys)
    assert "b.onnx: was not written with this plan: its SHA-256 is" in said
    net = onnx.load(pruned)
    del net.metadata_props[:]
    net.producer_name = "somebody"
    onnx.save(net, tmp_path / "c.onnx")
    assert "was not written with this plan" in refused(["verify", str(path), str(tmp_path / "c.onnx"), str(plan)], capsys)


def test_apply_refuses_the_result(pair: tuple[Path, Path, Path], tmp_path: Path, capsys: Capture) -> None:
    _, pruned, plan = pair
    capsys.readouterr()
    said = refused(["apply", str(pruned), str(plan), "-o", str(tmp_path / "o.onnx")], capsys)
    assert "is the result of this plan; give the original" in said


def test_weights_beside_a_model_are_not_overwritten_without_force(tmp_path: Path, capsys: Capture) -> None:
    path = external(tmp_path, small())
    (tmp_path / "a.onnx.data").write_text("mine")
    command = [str(path), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "a.onnx")]
    assert "a.onnx.data: already exists" in refused(command, capsys)
    assert run([*command, "--force"]) == 0
    assert (tmp_path / "a.onnx.data").read_text() == "mine"  # it belongs to no model here
    weights = onnx.load(tmp_path / "a.onnx", load_external_data=False).graph.initializer
    [data] = {t.external_data[0].value for t in weights if t.external_data}
    assert data.startswith("a.onnx.")
    assert f"the weights are in {tmp_path / data}" in capsys.readouterr().out.replace("\n", " ")
    assert (tmp_path / data).exists()


def test_replaced_weights_are_removed_and_the_report_says_so(tmp_path: Path, capsys: Capture) -> None:
    path = external(tmp_path, small())
    command = [str(path), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "a.onnx"), "--force", "--format", "json"]
    names = []
    for _ in range(3):
        capsys.readouterr()
        assert run(command) == 0
        report = json.loads(capsys.readouterr().out)
        [name] = [p.name for p in tmp_path.iterdir() if p.name.startswith("a.onnx.")]
        names.append(name)
        said = [note for note in report["notes"] if "of the model that was replaced" in note]
        assert len(said) == (len(names) > 1)
        onnx.load(tmp_path / "a.onnx")
    assert names[0] == names[2] == "a.onnx.data" != names[1]


@pytest.mark.parametrize("wrong", ["a.onnx.data", "d/../a.onnx"])
def test_a_plan_in_a_place_that_is_taken_is_refused(wrong: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "d").mkdir()
    command = [str(write(tmp_path)), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "a.onnx"), "--plan", str(tmp_path / wrong)]
    assert "choose two different files" in refused(command, capsys)


def test_weights_in_an_attribute_are_an_input_too(tmp_path: Path, capsys: Capture) -> None:
    net = small()
    w = next(t for t in net.graph.initializer if t.name == "w4")
    (tmp_path / "k.bin").write_bytes(onnx.numpy_helper.to_array(w).tobytes())
    stored = onnx.TensorProto(name="w4", data_type=w.data_type, dims=w.dims, data_location=onnx.TensorProto.EXTERNAL)
    stored.external_data.add(key="location", value="k.bin")
    net.graph.initializer.remove(w)
    net.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w4"], value=stored))
    path = tmp_path / "net.onnx"
    path.write_bytes(net.SerializeToString())
    before = files(tmp_path)
    for more in (["-o", str(tmp_path / "k.bin")], ["-o", str(tmp_path / "o.onnx"), "--plan", str(tmp_path / "k.bin")]):
        assert "k.bin: is the input itself" in refused([str(path), "--ratio", "0.5", *FAST, "--force", *more], capsys)
    assert files(tmp_path) == before


def test_weights_that_others_may_use_are_kept_when_a_model_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "d").mkdir()
    theirs = external(tmp_path / "d", small())
    foreign = theirs.rename(tmp_path / "d" / "a.onnx")
    assert run([str(path), "--ratio", "0.5", *FAST, "-o", str(foreign), "--force"]) == 0
    assert sorted(p.name for p in foreign.parent.iterdir()) == ["a.onnx", "a.plan.json", "net.bin"]
    source = external(tmp_path, small())
    command = [str(source), "--ratio", "0.5", *FAST, "-o", str(tmp_path / "b.onnx"), "--force"]
    assert run(command) == 0
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "b.onnx").read_bytes())
    assert run(command) == 0
    onnx.load(tmp_path / "copy.onnx")
    onnx.load(tmp_path / "b.onnx")


def test_pipes_are_no_inputs(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    path, pipe = str(write(tmp_path)), str(tmp_path / "pipe")
    for command in (["inspect", pipe], ["apply", path, pipe], [path, "--ratio", "0.5", "--work", pipe]):
        assert "is not a regular file" in refused(command, capsys)


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    net = small()
    for node in net.graph.node:
        node.output[:] = [name.replace("c1", "c\x1b[31m1") for name in node.output]
        node.input[:] = [name.replace("c1", "c\x1b[31m1") for name in node.input]
    for t in net.graph.initializer:
        t.name = t.name.replace("w1", "w\x1b[31m\x071")
    for node in net.graph.node:
        node.input[:] = [name.replace("w1", "w\x1b[31m\x071") for name in node.input]
    path, picture = write(tmp_path, net), tmp_path / "p.svg"
    assert run(["inspect", str(path), "--picture", str(picture)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert not {"\x1b", "\x07"} & set(picture.read_text())


def test_what_a_users_module_prints_does_not_reach_the_report(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("import numpy as np", "print('imported')", "def feeds():", "    print('called')", "    return [{'x': X}] * 20")
    (tmp_path / "talkative.py").write_text("\n".join((lines[0], "X = np.ones((1, 3, 8, 8), 'f')", *lines[1:])))
    monkeypatch.chdir(tmp_path)
    command = [str(write(tmp_path)), "--ratio", "0.5", *FAST, "--data", "talkative:feeds", "--format", "json"]
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["format"] == "onnxprune-report/1"
    assert "imported\n" in err
    assert "called\n" in err


def test_a_function_that_changes_the_working_folder_does_not_move_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "here.txt").write_text("3")
    lines = (
        *(
            "import os",
            "from pathlib import Path",
            "import numpy as np",
            "def feeds():",
            "    os.chdir('elsewhere')",
            "    for k in range(20):",
        ),
        "        yield {'x': np.full((1, 3, 8, 8), float(Path('here.txt').read_text()) + k, 'f')}",
        *("def metric(outputs, labels):", "    os.chdir('/')", "    return 0.5"),
    )
    (tmp_path / "wandering.py").write_text("\n".join(lines))
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = ("--data", "wandering:feeds", "--metric", "wandering:metric", "--recover", "bias", "--no-bench")
    assert run(["net.onnx", "--ratio", "0.5", "-o", "out.onnx", *data]) == 0
    assert Path.cwd() == tmp_path
    assert {"out.onnx", "out.plan.json"} <= files(tmp_path).keys()
    assert list(files(tmp_path / "elsewhere")) == ["here.txt"]
