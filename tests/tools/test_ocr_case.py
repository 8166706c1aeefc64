# SPDX-License-Identifier: Apache-2.0
"""The OCR case: decoding, accuracy, rendering and the search for a cut, without the model and its fonts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ocr_case
import ocr_picture
import ocr_words as ocr
import onnx
import pytest
from PIL import Image, ImageFont

WORDS = ["apple", "Bern", "cedar", "dune", "elm", "fjord", "grape", "hazel", "iris", "juniper"]
CLASSES = ["", "a", "b", "c", " "]


def scores(best: list[int]) -> Any:
    """Class scores with a given best class at each position."""
    return np.eye(len(CLASSES), dtype=np.float32)[best]


@pytest.mark.parametrize(
    ("best", "text"),
    [
        ([1, 1, 2], "ab"),
        ([1, 0, 1], "aa"),
        ([0, 0], ""),
        ([4, 1, 4, 2, 0, 4], "a b"),  # spaces inside count, at the ends they do not
        ([4, 0, 4], ""),
        ([3, 3, 0, 0, 3, 2, 2, 1], "ccba"),
    ],
)
def test_repeats_and_blanks_are_decoded_to_text(best: list[int], text: str) -> None:
    assert "".join(CLASSES[k] for k in ocr.read(scores(best))) == text


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("kitten", "sitting", 3), ("abc", "acb", 2), ("a", "aaa", 2), ("flaw", "lawn", 2)]
)
def test_the_edit_distance_is_the_least_number_of_edits(a: str, b: str, edits: int) -> None:
    assert ocr.distance(a, b) == ocr.distance(b, a) == edits


def test_character_accuracy_is_over_all_words_together() -> None:
    assert ocr.accuracy([1, 0], [2, 8]) == pytest.approx(0.9)
    assert ocr.accuracy([9], [3]) == 0.0
    outputs = {"y": np.stack([scores([1, 2, 3, 0]), scores([1, 1, 1, 0])])}
    labels = np.stack([ocr.encoded("abc", CLASSES), ocr.encoded("ab", CLASSES)])
    assert ocr.characters(outputs, labels) == pytest.approx(1 - 1 / 5)


def test_calibration_words_and_test_words_are_disjoint() -> None:
    found = [{w.lower() for w in ocr.chosen(WORDS, 5, test, 3)} for test in (False, True)]
    assert found[0] | found[1] == {w.lower() for w in WORDS}
    assert not found[0] & found[1]
    assert ocr.chosen(WORDS, 5, False, 3) == ocr.chosen(WORDS, 5, False, 3) != ocr.chosen(WORDS, 5, False, 4)


def test_rendering_is_seeded_and_fits_the_recogniser() -> None:
    fonts = [font for size in (24, 36) if isinstance(font := ImageFont.load_default(size), ImageFont.FreeTypeFont)]
    assert len(fonts) == 2, "Pillow without FreeType"
    a, b, c = (ocr.render("harvest", fonts, np.random.default_rng(seed)).pixels for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or (a != c).any()
    assert a.dtype == np.float32
    assert a.shape[:2] == (3, 48)
    assert a.shape[2] % ocr.STEP == 0
    assert -1 <= a.min() < a.max() <= 1
    assert a.std() > 0.2  # there is text on the background


def test_a_list_of_words_is_filtered(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("polish\nit's\nab\ntree\nwell-kept\nextraordinarily\nnaïve\n", encoding="utf-8")
    assert ocr.vocabulary(tmp_path / "words") == ["polish", "tree"]


def test_an_error_about_missing_files_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ocr.MissingError, match=r"no fonts .*apt-get install .*fonts-dejavu-core"):
        ocr.font_files(tmp_path)
    with pytest.raises(ocr.MissingError, match=r"no list of words; .*wamerican"):
        ocr.vocabulary(tmp_path / "words")
    with pytest.raises(ocr.MissingError, match="metadata entry 'character'"):
        ocr.classes_of(onnx.ModelProto())


def test_the_command_says_in_one_line_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ocr_case.py", "model.onnx", "--fonts", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        ocr_case.main()
    assert stop.value.code == 2
    assert "apt-get install" in capsys.readouterr().err.splitlines()[-1]


def test_classes_are_blank_then_the_characters_then_space() -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key="character", value="a\nb\nc")
    assert ocr.classes_of(model) == CLASSES


def test_the_cut_nearest_to_a_latency_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose latency falls by less than the multiply-accumulates do."""
    tried: list[float] = []

    def cut_at(bench: Any, share: float) -> Any:
        tried.append(share)
        return SimpleNamespace(share=share, kept=0.2 + 0.8 * share**1.5)

    monkeypatch.setattr(ocr_case, "cut_at", cut_at)
    known: list[Any] = []
    found = [ocr_case.find_cut(None, wanted, known) for wanted in (2 / 3, 1 / 2)]  # type: ignore[arg-type]
    assert [c.kept for c in found] == pytest.approx([2 / 3, 1 / 2], abs=ocr_case.NEAR)
    assert len(tried) == len(known) <= 2 * ocr_case.TRIES


def test_the_table_shows_every_recovery_of_every_cut() -> None:
    reading = ocr_case.Reading((), 0.995, 0.97, 0.004, 12.0)
    spoilt = ocr_case.Reading((), 0.0, 0.0, 0.0)
    columns = {name: {"none": spoilt, f"auto (selects {best})": reading} for name, best in (("half", "bias"), ("all", "bias"))}
    lines = list(ocr_case.table(reading, dict.fromkeys(columns, "a cut"), columns))  # type: ignore[arg-type]
    assert lines[-1] == "| auto (selects bias) | 99.5% ± 0.4% | 97.0% | 12 | 99.5% ± 0.4% | 97.0% | 12 |"
    assert len({line.count("|") for line in lines[3:]}) == 1


def test_the_picture_marks_right_and_wrong_texts(tmp_path: Path) -> None:
    shown = [ocr_picture.Shown(np.full((3, 48, 64), 0.5, np.float32), "tree", ["tree", "禾"])]
    path = tmp_path / "words.png"
    ocr_picture.draw(["a", "b"], shown, [ocr_picture.Bars("half", {"none": 0.1, "auto (selects x)": 0.98})], None, path)
    colours = {c for _, c in Image.open(path).getcolors(1 << 20) or ()}
    assert {(0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)} <= colours
