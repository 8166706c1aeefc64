# SPDX-License-Identifier: Apache-2.0
"""Results, one line of JSON each: what is done is not run again. Lists of jobs, and the table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.ir.placing import written_whole
from reproduction.jobs import STAGES, Job

FEWER = 0.7
"""The time of a cut network is its share of the multiply-accumulates to this power: small layers take more than their share."""


def done(path: Path) -> dict[str, dict[str, Any]]:
    """The results in a file, by the name of the job; a line that a kill left unfinished is not one."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["name"]] = record
    return found


def rewrite(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write all results, a line each."""
    with written_whole(path) as [draft]:
        draft.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a result as a line of its own."""
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(record) + "\n")


def listed(asked: Sequence[Job], known: Mapping[str, Any]) -> Iterator[str]:
    """A line for each job: its name, and how long it takes; trainings are counted with the first job that needs them."""
    total, trained = 0.0, {job.start for job in asked if job.name in known}
    for job in asked:
        if job.name in known:
            yield f"done      {job.name}"
            continue
        first = 0 if job.start in trained else job.training
        seconds = job.epoch * (first + job.retraining * job.macs**FEWER)
        trained.add(job.start)
        total += seconds
        yield f"{seconds / 60:5.0f} min {job.name}"
    yield f"{total / 3600:.1f} hours"


TITLES = ("network", "sparsity", "cut by", "asked", "epochs", "MACs", "parameters", "file", "latency")


def table(asked: Iterable[Job], known: Mapping[str, Any]) -> Iterator[str]:
    """The results as Markdown: the median over the seeds, and the range where there are several."""
    rows: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for job in asked:
        if job.name in known:
            rows.setdefault(job.row, []).append(known[job.name])
    titles = [*TITLES, *STAGES, "seeds"]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row, records in rows.items():
        middle = {key: statistics.median(r[key] for r in records) for key in ("macs_left", "params", "bytes")}
        sizes = (
            f"{middle['macs_left']:.1%}",
            f"{middle['params'] / 1e6:.3f} M",
            f"{middle['bytes'] / 1e6:.2f} MB",
            latency([r for r in records if "ms" in r]),
        )
        reached = [percent([r[stage] for r in records]) for stage in STAGES]
        yield f"| {' | '.join((*row, *sizes, *reached, str(len(records))))} |"


def latency(timed: Sequence[Mapping[str, Any]]) -> str:
    """The median latency, and the median speed-up with its range where there are several; a dash if none was timed.

    >>> latency([{"ms": 0.5, "speedup": 2.0}]), latency([{"ms": 0.5, "speedup": s} for s in (2.0, 3.0)]), latency([])
    ('0.50 ms, 2.00x', '0.50 ms, 2.50x (2.00-3.00)', '-')
    """
    if not timed:
        return "-"
    times, factors = ([r[key] for r in timed] for key in ("ms", "speedup"))
    spread = f" ({min(factors):.2f}-{max(factors):.2f})" if len(factors) > 1 else ""
    return f"{statistics.median(times):.2f} ms, {statistics.median(factors):.2f}x{spread}"


def percent(values: Sequence[float]) -> str:
    """The median in percent, and the range.

    >>> percent([0.9, 0.93, 0.92]), percent([0.5])
    ('92.00 (90.00-93.00)', '50.00')
    """
    spread = f" ({100 * min(values):.2f}-{100 * max(values):.2f})" if len(values) > 1 else ""
    return f"{100 * statistics.median(values):.2f}{spread}"
