# SPDX-License-Identifier: Apache-2.0
"""Progress where there is no terminal."""

from __future__ import annotations

from onnxprune.cli.progress import progress_lines


def test_progress_is_a_line_a_stage_and_every_ten_seconds() -> None:
    lines, now = list[str](), [0.0]
    show = progress_lines(lines.append, lambda: now[0])
    for seconds, stage, done in [
        (0, "analyse", 0),
        (1, "analyse", 1),
        (1.5, "inputs", 0),
        (3, "inputs", 0.1),
        (9, "inputs", 0.3),
        (12, "inputs", 0.45),
        (13, "inputs", 0.5),
        (14, "verify", 1),
    ]:
        now[0] = seconds
        show(stage, done)
    assert lines == ["onnxprune: analyse", "onnxprune: inputs", "onnxprune: inputs, 45%", "onnxprune: verify"]


def test_a_call_that_ends_at_once_says_nothing() -> None:
    lines = list[str]()
    show = progress_lines(lines.append, lambda: 0.0)
    show("analyse", 0)
    assert not lines
