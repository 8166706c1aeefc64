#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A text recogniser pruned to 2/3 and 1/2 of its latency: its accuracy with every recovery method.

usage: python tools/ocr_case.py MODEL.onnx [--fonts FOLDER] [--words FILE] [--calibration 256] [--test 300] [--out docs/ocr]
The model is a recogniser of PaddleOCR (input [N, 3, 48, W], its characters in the metadata). Words are rendered with the
system's fonts; calibration words and test words are disjoint. Prints a Markdown table: characters and words read right; ± is
the standard error over test words. Draws OUT/words.png: the first test words, and what each model reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ocr_words as ocr
import onnxruntime
from figures import processor
from ocr_picture import Bars, Shown, draw
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.cost.benchmark import Benchmark, benchmark, random_feeds
from onnxprune.data.arrays import data_of_calls
from onnxprune.data.batching import batched
from onnxprune.data.samples import Data
from onnxprune.effort import Clock, Effort
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.ort import session
from onnxprune.pipeline.decide import Decision, decide
from onnxprune.pipeline.samples import HELD_OUT
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.methods import Method, Task, by_bias, by_distillation, by_least_squares
from onnxprune.types import silent

TIMED = (1, 3, 48, 320)
TARGETS = {"2/3": 2 / 3, "1/2": 1 / 2}
NEAR, TRIES = 0.015, 4
"""A cut is accepted if its fraction of the latency is within NEAR of the target; at most TRIES cuts are tried per target."""
WAYS: dict[str, Method] = {
    "none": lambda task, progress: Fitted(task.pruned),
    "bias": by_bias,
    "reconstruct": by_least_squares,
    "distill": by_distillation,
}


@dataclass(frozen=True)
class Bench:
    """What every row is measured with.

    Attributes:
        fit, held_out: calibration words, for fitting and for the selection by `auto`.
        test: words used for nothing else.
        seconds: time for distillation.
    """

    model: ModelProto = field(repr=False)
    classes: Sequence[str] = field(repr=False)
    fit: Data
    held_out: Data
    test: Sequence[ocr.Sample] = field(repr=False)
    seconds: float = 240.0

    def texts(self, model: ModelProto) -> list[str]:
        """The text that a model reads in each test word."""
        opened = session(model.SerializeToString(), 1)
        scores = (opened.run(None, {"x": sample.pixels[None]})[0][0] for sample in self.test)
        return ["".join(self.classes[k] for k in ocr.read(s)) for s in scores]


@dataclass(frozen=True)
class Cut:
    """A cut, and its latency and the original's at 48 x 320, measured in turn.

    Attributes:
        share: requested fraction of the MACs.
    """

    share: float
    decision: Decision = field(repr=False)
    timing: Benchmark

    @property
    def kept(self) -> float:
        """Fraction of the original's latency."""
        return 1 / self.timing.speedup[1]

    def __str__(self) -> str:
        before, after = (x.median_ms for x in self.timing.latencies)
        low, high = 1 / self.timing.speedup_high[1], 1 / self.timing.speedup_low[1]
        return (
            f"{self.share:.1%} of the MACs: {before:.2f} -> {after:.2f} ms, {self.kept:.0%} of the latency "
            f"(10-90 %: {low:.0%}-{high:.0%})"
        )


@dataclass(frozen=True)
class Reading:
    """The result of a model on the test words.

    Attributes:
        texts: what it read.
        characters, words: fractions read right.
        spread: standard error of `characters`.
        seconds: time for recovery.
    """

    texts: Sequence[str] = field(repr=False)
    characters: float
    words: float
    spread: float
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.characters:.1%} ± {self.spread:.1%} | {self.words:.1%}"


def judged(bench: Bench, model: ModelProto, seconds: float = 0.0) -> Reading:
    """Evaluate a model on the test words."""
    texts = bench.texts(model)
    lengths = np.array([len(s.word) for s in bench.test])
    errors = np.array([ocr.distance(text, s.word) for text, s in zip(texts, bench.test, strict=True)])
    drawn = np.random.default_rng(0).integers(len(errors), size=(1000, len(errors)))
    spread = np.std([ocr.accuracy(errors[d].tolist(), lengths[d].tolist()) for d in drawn])
    return Reading(texts, ocr.accuracy(errors.tolist(), lengths.tolist()), float((errors == 0).mean()), float(spread), seconds)


def cut_at(bench: Bench, share: float) -> Cut:
    """Cut to a fraction of the MACs, widths by `obs`, and time it."""
    options = Options.of(macs=f"{share:.2%}", criterion="obs", data="words")
    decision = decide(analyse(read_graph(bench.model)), options, "model", batched(bench.fit, bench.model))
    feeds = random_feeds(bench.model, {"x": TIMED})
    cut = Cut(share, decision, benchmark((bench.model, decision.pruned), feeds, seconds=8.0))
    print(f"tried {cut}", file=sys.stderr, flush=True)
    return cut


def find_cut(bench: Bench, wanted: float, known: list[Cut]) -> Cut:
    """The cut whose fraction of the latency is closest to `wanted`; tried cuts are added to `known`."""
    for _ in range(TRIES):
        if any(abs(c.kept - wanted) <= NEAR for c in known):
            break
        points = sorted([(0.0, 0.0), (1.0, 1.0), *((c.kept, c.share) for c in known)])
        share = float(np.interp(wanted, [p[0] for p in points], [p[1] for p in points]))
        if any(abs(c.share - share) < 0.005 for c in known):
            break
        known.append(cut_at(bench, share))
    return min(known, key=lambda c: abs(c.kept - wanted))


def ways() -> dict[str, Method]:
    """The recovery methods available here: distillation needs torch."""
    able = importlib.util.find_spec("torch") and importlib.util.find_spec("onnxprune.training.distillation.distill")
    return {name: way for name, way in WAYS.items() if able or name != "distill"}


def column(bench: Bench, cut: Cut) -> dict[str, Reading]:
    """Every recovery of one cut; `auto` selects the one that reads the held-out calibration words best."""
    d, judge = cut.decision, Evaluator(bench.model, bench.held_out, ocr.characters)
    task = Task(d.analysis.coupled, d.dropped, d.pruned, bench.fit, Effort(Clock(bench.seconds)))
    found, losses = dict[str, Reading](), dict[str, float]()
    for name, way in ways().items():
        start = time.perf_counter()
        model = way(task, silent).model
        found[name] = judged(bench, model, time.perf_counter() - start)
        losses[name] = judge.judge(model).loss
        print(f"{name}: {found[name]}, {found[name].seconds:.0f} s", file=sys.stderr, flush=True)
    best = min(losses, key=losses.__getitem__)
    return {**found, f"auto (selects {best})": found[best]}


def table(before: Reading, cuts: dict[str, Cut], columns: dict[str, dict[str, Reading]]) -> Iterator[str]:
    """Markdown."""
    for name, cut in cuts.items():
        yield f"- {name} of the latency: {cut}"
    yield ""
    yield "| recovery |" + "".join(f" characters, {name} of the latency | words | seconds |" for name in cuts)
    yield "|---" * (1 + 3 * len(cuts)) + "|"
    yield f"| the original |{f' {before} | |' * len(cuts)}"
    for rows in zip(*(c.items() for c in columns.values()), strict=True):
        name = " / ".join(dict.fromkeys(name for name, _ in rows))
        yield f"| {name} |" + "".join(f" {r} | {r.seconds:.0f} |" for _, r in rows)


def picture(bench: Bench, before: Reading, columns: dict[str, dict[str, Reading]], font: Path, out: Path) -> None:
    """The first test words as read by the original, the deepest plain cut and its best recovery."""
    rows = list(columns.values())[-1]
    name, best = list(rows.items())[-1]
    readers = {"original": before, "plain cut": rows["none"], f"recovered: {name}": best}
    shown = [Shown(s.pixels, s.word, [r.texts[k] for r in readers.values()]) for k, s in enumerate(bench.test[:12])]
    bars = [Bars(f"{name} of the latency", {k: r.characters for k, r in c.items()}) for name, c in columns.items()]
    draw(list(readers), shown, bars, font, out / "words.png")


def prepared(options: argparse.Namespace) -> tuple[Bench, Path]:
    """Model, words and fonts."""
    files, words, model = ocr.font_files(options.fonts), ocr.vocabulary(options.words), load(options.model).model
    classes = ocr.classes_of(model)
    rendered = ocr.samples(options.calibration, False, files, words)
    data = data_of_calls((ocr.feed(s, classes) for s in rendered), model, "words")
    fit, held_out = data.split(HELD_OUT)
    test = ocr.samples(options.test, True, files, words)
    plain = next((f for f in files if f.name == "DejaVuSans.ttf"), files[0])
    return Bench(model, classes, fit, held_out, test, options.seconds), plain


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--fonts", type=Path, default=ocr.FOLDER, help="folder of .ttf files")
    parser.add_argument("--words", type=Path, default=ocr.LIST, help="one word per line")
    parser.add_argument("--calibration", type=int, default=256, help="number of calibration words; a fifth of them is held out")
    parser.add_argument("--test", type=int, default=300, help="number of test words")
    parser.add_argument("--seconds", type=float, default=240, help="time for distillation")
    parser.add_argument("--out", type=Path, default=Path("docs/ocr"))
    options = parser.parse_args()
    try:
        bench, font = prepared(options)
    except ocr.MissingError as e:
        parser.error(str(e))
    before, known = judged(bench, bench.model), list[Cut]()
    cuts = {name: find_cut(bench, kept, known) for name, kept in TARGETS.items()}
    columns = {name: column(bench, cut) for name, cut in cuts.items()}
    print(
        f"{processor()}, one thread, onnxruntime {onnxruntime.__version__}; {options.calibration} calibration words "
        f"({len(bench.held_out)} held out); {options.test} test words; latency at 48 x 320\n"
    )
    print("\n".join(table(before, cuts, columns)))
    options.out.mkdir(parents=True, exist_ok=True)
    picture(bench, before, columns, font, options.out)


if __name__ == "__main__":
    main()
