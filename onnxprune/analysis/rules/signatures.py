# SPDX-License-Identifier: Apache-2.0
"""Rules as data: operators whose channels can be described in one line of Einstein notation.

Reading a signature
    Letters name axes; the same letter means the same channels. A letter that is absent on the right is summed over, which is
    exact only if one factor is zero there. `_` is an axis that never shrinks. `s*` stands for any number of axes; `b*`
    broadcasts like a batch. An operand of lower rank is aligned to the right.
    Operands are factors of a product, unless marked: `+` is added to the product, `~` takes part without making zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxprune.analysis.labels import Axis, Flow, Residue
from onnxprune.analysis.policy import WAY_OUT
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, Visit, everywhere
from onnxprune.ir.semantics import PRODUCERS


def gemm(site: Site) -> str:
    """Gemm (A', B', C); a prime means transposed if transA or transB is set."""
    a = "c n" if site.node.attribute("transA", 0) else "n c"
    b = "o c" if site.node.attribute("transB", 0) else "c o"
    return f"{a}, {b}, + n o -> n o"


def matmul(site: Site) -> str:
    """numpy.matmul: a vector on either side loses its axis."""
    vector_a, vector_b = (len(site.shape(k)) == 1 for k in (0, 1))
    a, b = "k" if vector_a else "b* i k", "k" if vector_b else "b* k j"
    return f"{a}, {b} -> b*{'' if vector_a else ' i'}{'' if vector_b else ' j'}"


def einsum(site: Site) -> str:
    """Einsum's own equation, with spaces between the letters."""
    equation = site.node.attribute("equation", b"").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(t)) < len(t) for t in terms):
        raise Unsupported("has an equation with an ellipsis, a diagonal or no arrow")
    return f"{', '.join(' '.join(t) for t in terms)} -> {' '.join(right)}"


POOL = "n c _* -> n c _*"

SIGNATURES: Mapping[str, str | Callable[[Site], str]] = {
    "Conv": "n c _*, o c _*, + o -> n o _*",
    "ConvTranspose": "n c _*, c o _*, + o -> n o _*",
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "BatchNormalization": "~n c s*, c, + c, ~c, ~c -> n c s*",
    "AveragePool": POOL,
    "LpPool": POOL,
    "GlobalAveragePool": POOL,
    "GlobalMaxPool": POOL,
    "GlobalLpPool": POOL,
}


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of a signature: its mark ("", "+" or "~") and a letter for each axis."""

    mark: str
    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seat:
    """An occurrence of a letter: operand, axis, and what flows there."""

    operand: int
    axis: int
    mark: str
    labels: Axis
    residue: Residue
    size: int | None


def parse(text: str, rank: int) -> Operand:
    """Assign a letter to each of `rank` axes: a starred letter fills the middle, a lower rank aligns to the right.

    >>> parse("+ n o", 1)
    Operand(mark='+', letters=('o',))
    >>> parse("b* i k", 4).letters
    ('b-2', 'b-1', 'i', 'k')
    """
    mark = text.strip()[:1] if text.strip()[:1] in ("+", "~") else ""
    words = text.replace("+", " ").replace("~", " ").split()
    stars = [k for k, w in enumerate(words) if w.endswith("*")]
    if stars:
        count = rank - len(words) + 1
        if count < 0:
            raise Unsupported(f"has rank {rank} where its signature says '{text.strip()}'")
        name = words[stars[0]][:-1]
        filled = [name if name == "_" else f"{name}{k - count}" for k in range(count)]
        words[stars[0] : stars[0] + 1] = filled
    return Operand(mark, tuple(words[max(0, len(words) - rank) :]))


def by_signature(signature: str | Callable[[Site], str]) -> Visit:
    """The rule that a signature states."""

    def rule(site: Site) -> list[Flow]:
        text = signature if isinstance(signature, str) else signature(site)
        left, _, right = text.partition("->")
        terms = left.split(",")
        seats = _seats(site, terms)
        target = parse(right, site.rank())
        # including an operand without axes: a number that is added to every channel
        added = {k for k, term in enumerate(terms) if term.strip().startswith("+") and site.has(k)}
        settled = {letter: _settle(site, letter, found, letter in target.letters, added) for letter, found in seats.items()}
        axes = tuple(settled.get(letter, (None, Residue.UNKNOWN)) for letter in target.letters)
        return [Flow(tuple(a for a, _ in axes), tuple(r for _, r in axes))]

    return rule


def _seats(site: Site, texts: list[str]) -> dict[str, list[Seat]]:
    seats: dict[str, list[Seat]] = {}
    for k, flow in enumerate(site.inputs):
        if flow is None:
            continue
        if k >= len(texts):
            raise Unsupported(f"has {len(site.inputs)} inputs")
        term = parse(texts[k], len(flow.axes))
        for axis, letter in enumerate(term.letters):
            seat = Seat(k, axis, term.mark, flow.axes[axis], flow.residue[axis], site.shape(k)[axis])
            seats.setdefault(letter, []).append(seat)
    return seats


def _settle(site: Site, letter: str, seats: list[Seat], on_the_right: bool, added: set[int]) -> tuple[Axis, Residue]:
    """Tie all labels of a letter; return the labels and the residue of that axis of the output."""
    if letter == "_":
        for seat in seats:
            site.pin(seat.labels, "works across this axis")
        return None, Residue.UNKNOWN
    wide = [s for s in seats if s.size != 1]
    labels = [s.labels for s in wide if s.labels is not None]
    if not labels:
        return None, Residue.UNKNOWN
    if len(labels) < len(wide) or len({len(x) for x in labels}) > 1:
        kept = next(((s.operand, s.axis) for s in wide if s.labels is None), None)
        for x in labels:
            site.pin(x, "combines them with channels that cannot be cut", kept)
        return None, Residue.UNKNOWN
    _record(site, wide, on_the_right)
    for other in labels[1:]:
        site.tie(labels[0], other)
    zeros = {s.operand for s in wide if s.residue is Residue.ZERO}
    factor = any(s.operand in zeros for s in wide if not s.mark)
    if on_the_right:
        if factor and added <= zeros:
            return labels[0], Residue.ZERO
        fixed = {s.operand for s in wide if s.residue >= Residue.CONSTANT}
        all_fixed = all(site.stored[k] or k in fixed for k in range(len(site.inputs)) if site.has(k))
        return labels[0], Residue.CONSTANT if all_fixed else Residue.UNKNOWN
    site.labels.touched.extend(labels)
    if not factor and site.policy.allow_renormalising:
        site.mix(labels[0])
    elif not factor:
        site.pin(labels[0], f"sums over channels that do not become zero{WAY_OUT}")
    return None, Residue.UNKNOWN


def _record(site: Site, wide: list[Seat], produces: bool) -> None:
    if site.node.op in PRODUCERS or site.node.op == "BatchNormalization":
        for s in wide:
            site.use(s.operand, s.labels, produces)


RULES: Mapping[str, Rule] = {
    **{op: Rule(by_signature(SIGNATURES[op]), everywhere) for op in ("Einsum", "Gemm", "MatMul")},
    **{op: Rule(by_signature(text)) for op, text in SIGNATURES.items() if text == POOL},
}
"""Operators that their signature describes completely."""
