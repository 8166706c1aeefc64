# SPDX-License-Identifier: Apache-2.0
"""Stories of tensors, as sentences."""

from __future__ import annotations

from onnxprune.analysis.explain import AxisStory

MOST = 4


def sentences(story: AxisStory) -> str:
    """All that is to be told of one axis.

    >>> print(sentences(AxisStory(1, 8, 8, (), "", ("w2[1]", "b[0]"))))
    axis 1 of 8: all can be removed, each together with its slice of w2[1], b[0].
    >>> print(sentences(AxisStory(0, None, 0, (), "its size is dynamic", ())))
    axis 0 of dynamic size: stays, because its size is dynamic.
    """
    said = [_free(story)] if story.free else []
    if story.reason:
        said.append(_held(story))
    size = "of dynamic size" if story.size is None else f"of {story.size:,}"
    return f"axis {story.axis} {size}: {'; '.join(said)}."


def _free(story: AxisStory) -> str:
    whole = story.free == story.size
    text = ("all" if whole else f"{story.free:,}") + " can be removed"
    if story.partners:
        more = f" and {len(story.partners) - MOST} more weight axes (--format json lists all)" if _many(story) else ""
        text += f", each together with its slice of {', '.join(story.partners[:MOST])}{more}"
    return "; ".join([text, *story.even])


def _many(story: AxisStory) -> bool:
    return len(story.partners) > MOST


def _held(story: AxisStory) -> str:
    who = (
        "stays"
        if (not story.free and story.size is None) or story.size == 1
        else "all stay"
        if not story.free
        else "others stay"
    )
    if not story.chain:
        return f"{who}, because {story.reason}"
    first, *rest = [f"{step.node} ties {{}} to {step.reaches}" for step in story.chain]
    links = [first.format("one of them"), *(r.format("that") for r in rest)]
    return f"{who}, because {', '.join(links)}, and {story.reason}"
