# SPDX-License-Identifier: Apache-2.0
"""Explanations of tensors, as sentences."""

from __future__ import annotations

from onnxprune.analysis.explain import AxisStory

MOST = 4


def sentences(story: AxisStory) -> str:
    """The explanation of one axis.

    >>> print(sentences(AxisStory(1, 8, 8, (), "", ("w2[1]", "b[0]"))))
    axis 1 of 8: all can be removed, each together with its slice of w2[1], b[0].
    >>> print(sentences(AxisStory(0, None, 0, (), "its size is dynamic", ())))
    axis 0 of dynamic size: kept because its size is dynamic.
    """
    said = [_free(story)] if story.free else []
    if story.reason:
        said.append(_kept(story))
    size = "of dynamic size" if story.size is None else f"of {story.size:,}"
    return f"axis {story.axis} {size}: {'; '.join(said)}."


def _free(story: AxisStory) -> str:
    whole = story.free == story.size
    text = ("all" if whole else f"{story.free:,}") + " can be removed"
    if story.partners:
        rest = len(story.partners) - MOST
        more = f" and {rest} more (--format json lists all)" if rest > 0 else ""
        text += f", each together with its slice of {', '.join(story.partners[:MOST])}{more}"
    return "; ".join([text, *story.even])


def _kept(story: AxisStory) -> str:
    verb = (
        "kept"
        if (not story.free and story.size is None) or story.size == 1
        else "all are kept"
        if not story.free
        else "the others are kept"
    )
    if not story.chain:
        return f"{verb} because {story.reason}"
    first, *rest = [f"{step.node} ties {{}} to {step.reaches}" for step in story.chain]
    links = [first.format("one of them"), *(r.format("that") for r in rest)]
    return f"{verb} because {', '.join(links)}, and {story.reason}"
