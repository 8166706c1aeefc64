# SPDX-License-Identifier: Apache-2.0
"""What a run came to, and the tables of all runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fuzzing.cases import Case
from fuzzing.child import CRASHED, Ended

LONGEST = 300
"""Characters of a message."""
INTERNAL = "onnxprune: internal error"
FAULTS = (
    *("traceback", "internal error", "signal", "hang", "memory", "input changed", "foreign file", "not exact", "status"),
    *("several lines", "long line", "control characters", "verification failed", "nothing written"),
)
"""Everything that may be wrong with a run."""
SEVERE = FAULTS[:8]
"""What must never happen, whatever the input."""
THEIRS = ("torchinductor_", ".ses")
"""What libraries leave in the temporary folder."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@dataclass
class Row:
    """What a run came to.

    Attributes:
        name: the case's name.
        what: what is odd about it.
        arguments: the command line.
        status: exit status, -1 if it was killed.
        outcome: done, refused, or the first fault.
        faults: all faults.
        said: the last line on standard error.
        seconds: wall time.
        runs: whether onnxruntime loads and runs the model; None where no model was mutated.
        cut: whether anything was removed.
        checked: what the independent check says.
        where: type and place of an exception, or place of a crash.
        detail: the files that changed or were left.
    """

    name: str
    what: str
    arguments: Sequence[str]
    status: int
    outcome: str = ""
    faults: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0
    runs: bool | None = None
    cut: bool = False
    checked: str = ""
    where: str = ""
    detail: str = ""

    @property
    def done(self) -> bool:
        """Whether the program did what it was asked for."""
        return self.status in (0, 1)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, line: str) -> Row:
        """From one line."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in json.loads(line).items() if k in known})


def judged(case: Case, ended: Ended, before: Mapping[str, str], after: Mapping[str, str], left: Sequence[str]) -> Row:
    """The faults of a run: how it ended, what it said, and what it left in its folder and in the temporary one."""
    faults, lines = [], ended.err.splitlines()
    if "Traceback (most recent call last)" in ended.err or ended.status == CRASHED:
        faults.append("traceback")
    if any(line.startswith(INTERNAL) for line in lines):
        faults.append("internal error")
    if ended.killed:
        faults.append(ended.killed if ended.killed in ("hang", "memory") else "signal")
    elif ended.status not in (0, 1, 2, CRASHED):
        faults.append("status")
    if ended.status == 2 and not faults and case.arguments:  # without any, the help is shown
        faults += ["several lines"] * (len(lines) != 1 or not lines[0].startswith("onnxprune: "))
        faults += ["long line"] * any(len(line) > LONGEST for line in lines)
        faults += ["control characters"] * bool(CONTROL.search(ended.err))
    if ended.status == 1 and any(line.startswith("onnxprune: verification failed") for line in lines):
        faults.append("verification failed")
    changed = [p for p, digest in before.items() if after.get(p) != digest and not _replaced(case, p, digest)]
    finished = ended.status in (0, 1)
    foreign = [p for p in after if p not in before and not (finished and case.may_write(p))]
    faults += ["input changed"] * bool(changed)
    left = [name for name in left if not name.startswith(THEIRS)]
    faults += ["foreign file"] * bool((foreign and not ended.killed) or left)
    row = Row(case.name, case.what[:300], list(case.arguments), ended.status, faults=faults, seconds=round(ended.seconds, 3))
    row.said = lines[-1][:400] if lines else ""
    row.outcome = faults[0] if faults else "done" if finished else "refused"
    row.detail = ", ".join([*changed, *foreign, *left])[:300]
    if "signal" in faults:
        row.detail = f"{ended.killed} {row.detail}"
    return row


def _replaced(case: Case, path: str, was: str) -> bool:
    """Whether the command line lets the program replace a file."""
    return "--force" in case.arguments and was.startswith("file") and case.may_write(path) and path not in case.arguments[:1]


def place_of(text: str) -> str:
    """Exception type and the last place in the package, from a traceback or from what faulthandler writes."""
    found = re.findall(r'File "[^"]*?(onnxprune/[^"]*)", line (\d+),? in (\S+)', text)
    if not found:
        return ""
    path, line, function = found[0] if "most recent call first" in text else found[-1]
    said = re.search(r"^([A-Za-z_][\w.]*)(?::|$)", text[text.rindex('  File "') :], re.MULTILINE)
    kind = said[1].rpartition(".")[2] if said else "crash"
    return f"{kind} at {path.removeprefix('onnxprune/')}:{line} {function}"


def tables(rows: Sequence[Row]) -> Iterable[str]:
    """Outcomes by kind of file, and the places of exceptions and crashes."""
    columns: dict[str, list[Row]] = {}
    for row in rows:
        title = {True: "runs in onnxruntime", False: "does not run", None: row.name.partition("/")[0]}[row.runs]
        columns.setdefault(title, []).append(row)
    names = sorted(columns, reverse=True)
    yield f"| outcome | {' | '.join(names)} |"
    yield f"|---{'|--:' * len(names)}|"
    for label in ("done", "refused", *FAULTS):
        cells = [sum(label == r.outcome or label in r.faults for r in columns[n]) for n in names]
        if any(cells) or label in ("done", "refused"):
            yield f"| {label} | {' | '.join(str(c) for c in cells)} |"
    yield f"| all | {' | '.join(str(len(columns[n])) for n in names)} |"
    checked = Counter(r.checked.partition(":")[0] for r in rows if r.cut and r.runs)
    if checked:
        yield f"\nCut: {sum(r.cut for r in rows)}; of files that run, checked: " + ", ".join(
            f"{n} {k or 'not'}" for k, n in checked.items()
        )
    yield from places(rows)


def places(rows: Sequence[Row]) -> Iterable[str]:
    """Each place with the number of runs that ended there, most first, and its smallest example."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for fault in row.faults:
            found.setdefault((fault, row.where), []).append(row)
    if found:
        yield "\n| fault | exception and place | runs in onnxruntime | others | smallest example | what is odd |"
        yield "|---|---|--:|--:|---|---|"
    order = sorted(found.items(), key=lambda item: (FAULTS.index(item[0][0]), -len(item[1])))
    for (fault, where), some in order:
        first = min(some, key=lambda r: (not r.runs, len(r.what)))
        runs = sum(bool(r.runs) for r in some)
        words = " ".join(first.arguments)
        yield f"| {fault} | {where or '-'} | {runs} | {len(some) - runs} | `{first.name}`: `{words[:90]}` | {_cell(first)} |"


def _cell(row: Row) -> str:
    """What is odd about a case, and what was said, within a table."""
    text = " ".join(f"{row.what[:100]} -> {row.detail or row.said[:150]}".split())
    return CONTROL.sub("?", text).replace("|", "/")


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of all outcomes."""
    return {"cases": len(rows), "faults": dict(Counter(f for r in rows for f in r.faults))}
