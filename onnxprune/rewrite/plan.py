# SPDX-License-Identifier: Apache-2.0
"""The plan: which positions of which weight axes are kept. A small JSON file with everything that the rewrite needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.analysis.constraints import uneven_blocks
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.policy import DEFAULT, Policy
from onnxprune.errors import PlanError, first_line
from onnxprune.ir.placing import write_text
from onnxprune.ir.texts import text_of
from onnxprune.types import Mask

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]
"""Weight -> axis -> kept positions of the original axis, ascending."""

Sizes = Mapping[str, Mapping[int, int]]
"""Weight -> axis -> number of positions of the original axis."""

FORMAT, FORMAT_2, FORMAT_3, FORMAT_4 = FORMATS = tuple(f"onnxprune-plan/{n}" for n in (1, 2, 3, 4))
"""The second is for plans that name weights which older releases do not know: in bodies of If, Loop and Scan
(`NODE/then_branch/NAME`), or not stored in the file. The third is for plans with blocks, or without some residual branches.
The fourth is for plans with channels that are always the same. The first can be read by older releases."""


@dataclass(frozen=True, slots=True)
class BlockMask:
    """How the weight of a cut model is divided into blocks, and what each one is.

    Attributes:
        runs: length of the runs on each axis.
        actions: what the blocks are, in order, run-length encoded: `12s3z5f`: 12 share a magnitude, 3 are zero, 5 are free.
    """

    runs: tuple[int, ...]
    actions: str

    @classmethod
    def of(cls, runs: Sequence[int], actions: Sequence[int]) -> BlockMask:
        """From the action of each block: 0 free, 1 shared, 2 zero."""
        return cls(tuple(runs), "".join(f"{len(list(same))}{LETTERS[kind]}" for kind, same in groupby(actions)))

    def decoded(self) -> list[int]:
        """The action of each block: 0 free, 1 shared, 2 zero."""
        pairs = re.findall(r"(\d+)([fsz])", self.actions)
        return [LETTERS.index(letter) for count, letter in pairs for _ in range(int(count))]

    @property
    def count(self) -> int:
        """Number of blocks."""
        return sum(int(count) for count in re.findall(r"\d+", self.actions))


LETTERS = "fsz"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which channels are kept.

    Attributes:
        model_sha256: digest of the file that the plan was made for; empty if the model was not read from a file.
        kept: weight -> axis -> kept positions of the original axis, ascending. Every axis that is cut is listed.
        made_by: how the plan was made (ratio, criterion, ...), for the user.
        policy: the policy of the analysis; the same policy ties the same channels.
        format: the format of its file.
        blocks: weight -> its blocks after the cut, if weights were unified.
        folded: those weights in `kept` that the file does not store: it computes them from others, or they are in a function.
        removed: residual branches that go, each as (tensor, sum): nothing is added to the tensor any more.
        pruned_sha256: digest of the file that was written with the plan; empty if none was.
        sizes: the sizes of the axes in `kept`, before the cut; older plans do not state them.
        constant: weight -> axis -> positions of channels that are always the same number: what they contribute is added by the
            layers that read them, instead of being zeroed.
    """

    model_sha256: str
    kept: Kept = field(repr=False)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = DEFAULT
    format: str = FORMAT
    folded: tuple[str, ...] = ()
    blocks: Mapping[str, BlockMask] = field(default_factory=dict, repr=False)
    removed: tuple[tuple[str, str], ...] = ()
    pruned_sha256: str = field(default="", compare=False)
    sizes: Sizes = field(default_factory=dict, repr=False)
    constant: Kept = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """A plan with folded weights, with blocks, without some branches or with constant channels has a newer format."""
        needed = FORMAT_4 if self.constant else FORMAT_3 if self.blocks or self.removed else FORMAT_2 if self.folded else FORMAT
        object.__setattr__(self, "format", max(self.format, needed))

    @classmethod
    def of(cls, given: Any) -> Plan:
        """A plan, or the one in the file at a path.

        Raises:
            PlanError: it is neither, or the file is not a plan.
        """
        if isinstance(given, Plan):
            return given
        if not isinstance(given, str | Path):
            raise PlanError(f"the plan: got {repr(given)[:80]}, expected a Plan, or the path of one")
        return cls.load(given)

    @property
    def recovered(self) -> str:
        """The method that refitted the weights after the cut; empty if they were not refitted."""
        return str(self.made_by.get("recovered", ""))

    def then(self, later: Plan) -> Plan:
        """This cut and a later one of its result, as one cut of the original.

        Raises:
            PlanError: the later plan keeps positions that this one has removed.
        """
        folded = tuple(dict.fromkeys((*self.folded, *later.folded)))
        newest = max(self.format, later.format)
        kept = composed(self.kept, later.kept)
        removed = (*self.removed, *later.removed)
        sizes = {name: {**later.sizes.get(name, {}), **self.sizes.get(name, {})} for name in (*self.sizes, *later.sizes)}
        constant = united(self.constant, original(self.kept, later.constant))
        made_by, policy, blocks = later.made_by, later.policy, later.blocks
        return Plan(self.model_sha256, kept, made_by, policy, newest, folded, blocks, removed, sizes=sizes, constant=constant)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(Path(path), self.to_json())

    def to_json(self) -> str:
        """The text of a plan file."""
        kept, constant = _plain(self.kept), _plain(self.constant)
        sizes = {name: {str(axis): size for axis, size in axes.items()} for name, axes in self.sizes.items()}
        head: dict[str, Any] = {"format": self.format, "model_sha256": self.model_sha256, "made_by": dict(self.made_by)}
        if self.pruned_sha256:
            head["pruned_sha256"] = self.pruned_sha256
        if policy := self.policy.to_dict():
            head["policy"] = policy
        if self.folded:
            head["folded"] = list(self.folded)
        if self.removed:
            head["removed"] = [{"from": skip, "to": total} for skip, total in self.removed]
        masks = {name: [*m.runs, m.actions] for name, m in self.blocks.items()}
        others = (("sizes", sizes), ("constant", constant), ("blocks", masks))
        tables = {"kept": kept} | {name: table for name, table in others if table}
        return json.dumps(head, indent=1)[:-2] + "".join(_table(*named) for named in tables.items()) + "\n}\n"

    @property
    def sha256(self) -> str:
        """Digest of the plan, whatever file was written with it."""
        return hashlib.sha256(replace(self, pruned_sha256="").to_json().encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            PlanError: the file is missing, is not JSON, or is not a plan.
        """
        try:
            text = text_of(Path(path))
        except (OSError, ValueError) as e:
            text = "not a text file" if isinstance(e, UnicodeDecodeError) else first_line(e)
            reason = getattr(e, "strerror", None) or text
            raise PlanError(f"{path}: cannot read the plan: {reason}; pass the .plan.json written by onnxprune") from e
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, TypeError, AttributeError, RecursionError) as e:
            formats = ", ".join(f"'{name}'" for name in FORMATS[:-1])
            expected = f"JSON with format {formats} or '{FORMAT_4}' and 'kept'"
            raise PlanError(f"{path}: not a plan ({first_line(e)}); expected {expected}") from e

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """A plan from parsed JSON; a ValueError describes what is wrong."""
        if not isinstance(data, dict) or data.get("format") not in FORMATS:
            got = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"got format {got!r}")
        if not isinstance(data.get("kept"), dict):
            raise ValueError("'kept' is missing or not an object")
        kept = {name: _kept_axes(name, axes) for name, axes in data["kept"].items()}
        policy = Policy.from_dict(data.get("policy", {}))
        made_by = data.get("made_by", {})
        if not isinstance(made_by, dict):
            raise ValueError(f"'made_by' is {type(made_by).__name__}, expected an object")
        if any(type(x) is int and abs(x) >= 2**63 for x in made_by.values()):
            raise ValueError("'made_by' holds a number of more than 64 bits")
        folded = data.get("folded", [])
        if not isinstance(folded, list) or not set(folded) <= kept.keys():
            raise ValueError(f"'folded' is {folded!r}, expected a list of names in 'kept'")
        blocks = {name: _mask(name, given) for name, given in data.get("blocks", {}).items()}
        removed = tuple(_pair(given) for given in data.get("removed", []))
        digests = [data.get(name, "") for name in ("model_sha256", "pruned_sha256")]
        if not all(isinstance(digest, str) for digest in digests):
            raise ValueError("'model_sha256' or 'pruned_sha256' is not a text")
        own, pruned = digests
        sizes = {name: _sizes(name, axes, kept.get(name, {})) for name, axes in data.get("sizes", {}).items()}
        constant = {name: _kept_axes(name, axes, "constant") for name, axes in data.get("constant", {}).items()}
        return cls(own, kept, made_by, policy, data["format"], tuple(folded), blocks, removed, pruned, sizes, constant)


def composed(first: Kept, second: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """Two consecutive cuts as one.

    Raises:
        PlanError: the second keeps positions that the first has removed.

    >>> composed({"w": {0: (1, 3, 5)}}, {"w": {0: (0, 2), 1: (4,)}})
    {'w': {0: (1, 5), 1: (4,)}}
    """
    found = {name: dict(axes) for name, axes in first.items()}
    for name, axes in second.items():
        merged = found.setdefault(name, {})
        for axis, positions in axes.items():
            before = merged.get(axis)
            if before is not None and positions[-1] >= len(before):
                raise PlanError(
                    f"the later plan keeps position {positions[-1]} on axis {axis} of '{name}', of which {len(before)} are left"
                )
            merged[axis] = positions if before is None else tuple(before[p] for p in positions)
    return found


def original(first: Kept, positions: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """Positions of a cut model as those of its original.

    Raises:
        PlanError: the cut has removed some of them.

    >>> original({"w": {0: (1, 3, 5)}}, {"w": {0: (0, 2), 1: (4,)}})
    {'w': {0: (1, 5), 1: (4,)}}
    """
    found = composed(first, positions)
    return {name: {axis: found[name][axis] for axis in axes} for name, axes in positions.items()}


def united(first: Kept, second: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """The positions of either.

    >>> united({"w": {0: (1, 3)}}, {"w": {0: (2, 3)}, "v": {1: (0,)}})
    {'w': {0: (1, 2, 3)}, 'v': {1: (0,)}}
    """
    found = {name: dict(axes) for name, axes in first.items()}
    for name, axes in second.items():
        for axis, positions in axes.items():
            own = found.setdefault(name, {})
            own[axis] = tuple(sorted({*own.get(axis, ()), *positions}))
    return found


def _plain(positions: Kept) -> dict[str, dict[str, list[int]]]:
    """Positions as JSON has them."""
    return {name: {str(axis): list(p) for axis, p in axes.items()} for name, axes in positions.items()}


def _table(name: str, rows: Mapping[str, Any]) -> str:
    """The text of a table of a plan file, with a line per weight, after what comes before it."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    return f',\n "{name}": {{\n{lines}\n }}'


def _pair(given: Any) -> tuple[str, str]:
    """A residual branch that goes; a ValueError describes what is wrong."""
    found = (given.get("from"), given.get("to")) if isinstance(given, dict) else (None, None)
    if not isinstance(found[0], str) or not isinstance(found[1], str):
        raise ValueError(f'\'removed\' holds {given!r}, expected the names of two tensors, as {{"from": ..., "to": ...}}')
    return found[0], found[1]


def _mask(name: str, given: Any) -> BlockMask:
    """The blocks of a weight; a ValueError describes what is wrong."""
    runs, actions = (given[:-1], given[-1]) if isinstance(given, list) and given else ([], None)
    whole = bool(runs) and all(type(run) is int and run > 0 for run in runs)
    if not whole or not isinstance(actions, str) or not re.fullmatch(r"(?=.*[sz])([1-9]\d{0,11}[fsz])+", actions):
        raise ValueError(
            f"blocks of '{name}': expected the sizes of a block and what the blocks are, as [1, 16, 1, 1, \"99s\"]"
        )
    return BlockMask(tuple(runs), actions)


def _kept_axes(name: str, axes: Any, what: str = "kept") -> dict[int, tuple[int, ...]]:
    """Axis -> kept positions of a weight, or others; a ValueError describes what is wrong."""
    if not isinstance(axes, dict) or not all(axis.isdecimal() for axis in axes):
        raise ValueError(f"'{name}': expected an object, axis -> {what} positions")
    for axis, positions in axes.items():
        whole = isinstance(positions, list) and all(type(p) is int for p in positions)
        if not whole or not positions or any(a >= b for a, b in pairwise(positions)) or positions[0] < 0:
            raise ValueError(f"'{name}' axis {axis}: expected {what} positions in ascending order, at least one")
    return {int(axis): tuple(positions) for axis, positions in axes.items()}


def _sizes(name: str, given: Any, kept: Mapping[int, tuple[int, ...]]) -> dict[int, int]:
    """Axis -> size of a weight before the cut; a ValueError describes what is wrong."""
    if not isinstance(given, dict) or not given.keys() <= {str(axis) for axis in kept}:
        raise ValueError(f"'sizes' of '{name}': got {given!r:.80}, expected sizes of axes that 'kept' lists")
    found = {int(axis): size for axis, size in given.items()}
    for axis, size in found.items():
        if type(size) is not int or not kept[axis][-1] < size < 2**63:
            raise ValueError(f"'sizes' of '{name}', axis {axis}: got {size!r:.40}, expected more than {kept[axis][-1]}")
    return found


def plan_of(
    coupled: Coupled,
    dropped: Mask,
    sha256: str,
    made_by: Mapping[str, Any],
    copies: bool = False,
    derived: Collection[str] = (),
    added: Collection[str] = (),
) -> Plan:
    """The plan that drops the given labels.

    Args:
        copies: also name copies of shared constants, which follow from the rest and which the file does not have.
        dropped: (n_labels,) True for labels to remove; the same for all labels of a class.
        derived: weights that the file does not store.
        added: weights that it never had, which follow from the rest.
    """
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    sizes: dict[str, dict[int, int]] = {}
    for o in coupled.owners:
        removed = dropped[o.start : o.start + o.size]
        if o.weight not in added and removed.any() and (copies or o.weight not in (coupled.graph.copies or {})):
            kept.setdefault(o.weight, {})[o.axis] = tuple(np.flatnonzero(~removed).tolist())
            sizes.setdefault(o.weight, {})[o.axis] = o.size
    folded = tuple(name for name in kept if name in derived)
    inside = not coupled.graph.stored_in_bodies.isdisjoint(kept)
    newest = FORMAT_2 if inside or folded else FORMAT
    return Plan(sha256, kept, made_by, coupled.policy, newest, folded, sizes=sizes)


def positions_of(coupled: Coupled, labels: Mask) -> dict[str, dict[int, tuple[int, ...]]]:
    """Weight -> axis -> the positions that have some labels (n_labels,)."""
    copies, found = coupled.graph.copies or {}, dict[str, dict[int, tuple[int, ...]]]()
    for o in coupled.owners:
        own = labels[o.start : o.start + o.size]
        if own.any() and o.weight not in copies:
            found.setdefault(o.weight, {})[o.axis] = tuple(np.flatnonzero(own).tolist())
    return found


def labels_at(coupled: Coupled, positions: Kept) -> Mask:
    """The labels (n_labels,) of the channels at some positions, in all tensors.

    Raises:
        PlanError: the model does not have these positions.
    """
    owners, classes = {(o.weight, o.axis): o for o in coupled.owners}, np.zeros(len(coupled.roots), bool)
    for name, axes in positions.items():
        for axis, where in axes.items():
            owner = owners.get((name, axis))
            if owner is None or where[-1] >= owner.size:
                at = f"position {where[-1]} of axis {axis} of '{name}'"
                raise PlanError(f"the plan names {at}, which this model does not have: is it for another model?")
            classes[coupled.roots[owner.start + np.array(where)]] = True
    found: Mask = classes[coupled.roots]
    return found


def check_size(plan: Plan, name: str, axis: int, size: int) -> None:
    """Check that an axis of a weight has the size that it had when the plan was made.

    Raises:
        PlanError: it has another one, so that the plan would drop positions that it does not know.
    """
    last, planned = plan.kept[name][axis][-1], plan.sizes.get(name, {}).get(axis)
    where = f"axis {axis} of '{name}'"
    if planned is not None and planned != size:
        raise PlanError(f"the plan was made for {planned} positions on {where}, which has {size}: is it for another model?")
    if last >= size:
        raise PlanError(f"the plan keeps position {last} on {where}, which has only {size} positions: is it for another model?")


def dropped_by(coupled: Coupled, plan: Plan, added: Collection[str] = ()) -> Mask:
    """The labels (n_labels,) that a plan drops in this graph.

    Args:
        added: weights that the plan does not know.

    Raises:
        PlanError: the plan does not fit the model, cuts pinned channels, or separates tied channels.
    """
    if plan.policy != coupled.policy:
        raise PlanError(f"the plan was made with {plan.policy}, the analysis with {coupled.policy}; analyse with `plan.policy`")
    owners = {(o.weight, o.axis): o for o in coupled.owners}
    dropped = np.zeros(len(coupled.roots), bool)
    for name, axes in plan.kept.items():
        for axis, positions in axes.items():
            owner = owners.get((name, axis))
            if owner is None:
                raise PlanError(
                    f"the plan cuts axis {axis} of '{name}', which this model does not have: is it for another model?"
                )
            check_size(plan, name, axis, owner.size)
            removed = np.ones(owner.size, bool)
            removed[list(positions)] = False
            dropped[owner.start : owner.start + owner.size] = removed
    classes = np.zeros(len(coupled.roots), bool)
    classes[coupled.roots[dropped]] = True
    everywhere = classes[coupled.roots]
    implied = {*(coupled.graph.copies or {}), *added} - plan.kept.keys()
    for o in coupled.owners:
        if o.weight in implied:
            continue
        removed, tied = dropped[o.start : o.start + o.size], everywhere[o.start : o.start + o.size]
        if not np.array_equal(removed, tied):
            position = int(np.flatnonzero(removed != tied)[0])
            raise PlanError(f"the plan keeps position {position} of '{o.weight}' axis {o.axis}, but cuts channels tied to it")
        if (removed & ~coupled.free[o.start : o.start + o.size]).any():
            position = int(np.flatnonzero(removed & ~coupled.free[o.start : o.start + o.size])[0])
            pin = coupled.first_pin[int(coupled.roots[o.start + position])]
            raise PlanError(f"the plan cuts position {position} of '{o.weight}' axis {o.axis}, but {pin}")
    for even in coupled.evens:
        if uneven := uneven_blocks(even, everywhere):
            raise PlanError(f"the plan does not fit: {coupled.graph.nodes[even.node]} {uneven}")
    return everywhere
