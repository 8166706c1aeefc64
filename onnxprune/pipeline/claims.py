# SPDX-License-Identifier: Apache-2.0
"""What the report says about accuracy: what is known, what is not, and what to make of the candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxprune.data.samples import MadeUp
from onnxprune.pipeline.samples import BORDER, Samples, describes

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery


def unknown(model: ModelProto, recovery: Recovery | None, samples: Samples | None, asked: object, blocks: bool = False) -> str:
    """Why nothing is known about the accuracy of the result, and what to do; empty if there are samples of the user.

    Args:
        model: the original.
        recovery: what was tried.
        samples: the samples that there were.
        asked: the value of --recover.
        blocks: whether weights share magnitudes in blocks.
    """
    if samples is not None and samples.made is None:
        return ""
    method = recovery.method if recovery else "none"
    done = {"none": unfitted(blocks), "bias": "biases were corrected by the means that BatchNorm stores"}
    if samples is None:
        why = "" if asked == "none" or describes(model) else "too little BatchNorm to make inputs by: nothing was fitted, and "
        what = why + done[method]
    elif method in done:
        why = "a fit to them did not hold on others of them" if samples.trusted else "nothing was fitted to them"
        what = f"{made_text(samples)}: {why}; {done[method]}"
    else:
        what = f"weights were fitted to {made_text(samples)}"
    return f"no --data; {what}. Give --data (a few dozen typical inputs) to measure it and to keep more of it"


def unfitted(blocks: bool) -> str:
    """What the weights are that were not fitted to anything, in blocks or not."""
    return "blocks have the mean magnitude of their weights" if blocks else "the kept weights are unchanged"


def made_text(samples: Samples) -> str:
    """Made-up inputs: their number, sizes, ranges, and how well they fit, as in a sentence."""
    made = samples.made or MadeUp()
    shapes = {n: "x".join(map(str, x.shape[1:])) for n, x in samples.fit.chunks[0].items()}
    of = ", ".join(f"{n} {shape}{_range(made, n)}" for n, shape in shapes.items())
    count = len(samples.fit) + len(samples.held_out) * samples.fitted
    fit = "whose likeness to real ones is unknown"
    if made.mismatch is not None:
        good = "well" if samples.trusted else "too poorly"
        fit = f"that fit the BatchNorm statistics {good} (mismatch {made.mismatch:.2f}, limit {BORDER:g})"
    return f"{count:,} made-up inputs ({of}) {fit}"


def _range(made: MadeUp, name: str) -> str:
    if name not in made.ranges:
        return ""
    low, high = made.ranges[name]
    return f", {min(low):.3g} to {max(high):.3g}"


TIE = 0.01
"""Methods that differ by less than this in what they lost are equally good."""


def ties(recovery: Recovery | None) -> list[str]:
    """A sentence on methods that did as well as the one that was kept."""
    kept = recovery.of(recovery.method) if recovery else None
    if recovery is None or kept is None or kept.ruined or not recovery.varies:
        return []
    judged = [(a.name, a.judgement) for a in recovery.attempts if a.judgement is not None and a.name != recovery.method]
    same = [name for name, j in judged if abs(j.loss - kept.loss) < TIE]
    names = " and ".join((recovery.method, *same))
    return [f"{names} are equally good on the held-out samples (difference below {TIE:g})"] if same else []


def recovery_warnings(recovery: Recovery | None, samples: Samples | None, less: str = "remove less") -> list[str]:
    """Sentences on what failed, and on what is not as good as it may seem.

    Args:
        recovery: what was tried.
        samples: the samples that there were.
        less: what to do to a model that lost too much.
    """
    if recovery is None:
        return []
    found = [f"{a.name} failed: {a.why}" for a in recovery.attempts if a.why]
    if samples is not None and samples.held_out.labels is not None and recovery.before and recovery.before.accuracy is None:
        found.append("the labels are not used: the model's first output has no class for each of them; say how with --metric")
    chosen, cut = recovery.of(recovery.method), recovery.of("none")
    if samples is not None and not samples.trusted and recovery.method in ("reconstruct", "distill"):
        found.append(f"{recovery.method} was asked for, but made-up inputs like these have ruined models; give --data")
    if chosen is None or cut is None:
        return found
    if not recovery.varies:
        found.append("the original's outputs do not vary over the held-out inputs, so that nothing can be judged on them")
    elif (samples is None or samples.made is None) and all(a.judgement.ruined for a in recovery.attempts if a.judgement):
        found.append(
            f"all candidates lost the original's outputs: {recovery.method}, the best, loses {chosen.lost:.0%} of what they "
            f"tell about the inputs (100 %: as bad as a constant); {less}, or give more samples (--data) or --time-budget"
        )
    if chosen.loss > cut.loss:
        found.append(f"{recovery.method} performs worse than the cut alone on held-out samples; --recover auto keeps the best")
    return found
