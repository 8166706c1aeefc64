# SPDX-License-Identifier: Apache-2.0
"""A study: trials that several processes share, kept so that they can stop at any time. The only module that imports Optuna.

A process that is killed holds nothing up: the lock of a file belongs to the process, so that the system releases it; what it
left half-written is cut off; and the trial that it was working on is failed by the others and put in line again.

Raises:
    OptionError: on import, if Optuna is not installed.
"""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OptionError, OutputError, first_line
from onnxprune.ir.placing import check_folder
from onnxprune.report.search import front_of

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
except ImportError as e:
    raise OptionError("search: needs Optuna 4.2 or newer: pip install 'onnxprune[search]'") from e

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE, SLOWER = 60.0, 10.0
"""A trial is given up after this many seconds, and after this many times as long as the longest one took."""
CONNECTING = 15
"""Seconds to wait for a database."""
CHANGED, MIXED, FAITHFUL, ATTEMPTS = 1.5, 0.3, 0.3, 50
"""How many parameters of a trial are changed, on average; how often two trials are mixed; how often the most faithful one is
taken, beside chance; and how often a trial is chosen again that is known already."""
ASKED, SETUP, WORKER, SECONDS, ERROR = "asked", "setup", "worker", "seconds", "error"
"""Names of what is kept beside the parameters."""

Choice = str | float | None
Choices = Mapping[str, Sequence[Choice]]
"""Parameter -> the values that it can have."""

Objective = Callable[[Mapping[str, Choice]], tuple[tuple[float, ...], Mapping[str, Any]]]
"""From values of the parameters to what is to be small, and what else is kept; with `ERROR`, the trial fails."""


@dataclass(frozen=True)
class Tried:
    """A trial that is done.

    Attributes:
        number: its place in the study.
        params: parameter -> value.
        values: what is to be small, as stated by the trial.
        attrs: what else is known about it.
    """

    number: int
    params: Mapping[str, Choice]
    values: tuple[float, ...]
    attrs: Mapping[str, Any]


class Study:
    """The trials of one search, in a file, in a database, or in memory.

    Attributes:
        name: its name in the storage.
        place: the storage as users may see it, without a password; empty: in memory.

    Raises:
        OptionError: the storage cannot be opened, or holds something else.
    """

    def __init__(self, storage: str | None, name: str, seed: int) -> None:
        self.name, self.place = name, re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", storage or "")
        self._seen: dict[int, float] = {}
        with self._opened():
            optuna.logging.set_verbosity(optuna.logging.CRITICAL)
            self._study = optuna.create_study(
                storage=_storage(storage),
                sampler=Mutations(seed),
                study_name=name,
                directions=["minimize", "minimize"],
                load_if_exists=True,
            )
            if len(self._study.directions) != 2 or (self._all() and not self._first()):
                raise OptionError(f"--study {name}: is another kind of study in {self.place}; choose another name")

    def check(self, asked: Mapping[str, str]) -> None:
        """Reject a study that was made for something else.

        Args:
            asked: what decides the results, by name; may be a part of it. Empty is what studies state that do not know it.

        Raises:
            OptionError: something differs.
        """
        with self._working():
            known = self._first().get(ASKED)
        if known is None:
            return
        for name, value in asked.items():
            if known.get(name, "") != value:
                kept = f" in {self.place}" if self.place else ""
                what = f"was made with another {name}"
                raise OptionError(f"--study {self.name}: the study of this name{kept} {what}; choose another --study")

    def begin(
        self,
        asked: Mapping[str, str],
        make: Callable[[], tuple[Choices, Tried, Mapping[str, Any]]],
        first: Callable[[Choices], Sequence[Mapping[str, Choice]]],
    ) -> Mapping[str, Any]:
        """What all processes have in common: it is kept with the first trial, so that of several that begin, one decides.

        Args:
            asked: all that decides the results, as for `check`.
            make: makes the parameters, the first trial and what is kept with it, if there is none yet.
            first: the parameters -> those of trials to be made before all others.
        """
        with self._working():
            found, mine = self._first(), uuid.uuid4().hex
        if not found:
            choices, trial, setup = make()
            spaces: dict[str, BaseDistribution] = {name: CategoricalDistribution(v) for name, v in choices.items()}
            kept = {**trial.attrs, SETUP: dict(setup), ASKED: dict(asked), WORKER: mine}
            with self._working():
                self._study.add_trial(
                    create_trial(params=dict(trial.params), distributions=spaces, values=list(trial.values), user_attrs=kept)
                )
                found = self._first()
                for params in first(choices) if found[WORKER] == mine else ():
                    self._study.enqueue_trial(dict(params))
        self.check(asked)
        return dict(found[SETUP])

    def tried(self) -> list[Tried]:
        """The trials that are done, in their order."""
        with self._working():
            done = [t for t in self._all() if t.state == TrialState.COMPLETE]
        # processes that began at the same time have a first trial each, and the first of these counts
        first = next((t.number for t in done if SETUP in t.user_attrs), -1)
        kept = (t for t in done if SETUP not in t.user_attrs or t.number == first)
        return [Tried(t.number, t.params, tuple(t.values), t.user_attrs) for t in kept]

    def failed(self) -> int:
        """Number of trials that could not be judged."""
        with self._working():
            return sum(ERROR in t.user_attrs for t in self._all())

    def run(self, choices: Choices, objective: Objective) -> None:
        """Make one trial: one that is in line, else one that those before suggest."""
        with self._working():
            self._fail_abandoned()
            spaces: dict[str, BaseDistribution] = {name: CategoricalDistribution(v) for name, v in choices.items()}
            trial = self._study.ask(fixed_distributions=spaces)
            trial.set_user_attr(WORKER, _worker())
        start = time.monotonic()
        try:
            values, kept = objective(trial.params)
        except BaseException:
            self._give_up(trial)
            raise
        with self._working():
            trial.set_user_attr(SECONDS, time.monotonic() - start)
            for name, value in kept.items():
                trial.set_user_attr(name, value)
            failed = ERROR in kept
            state = TrialState.FAIL if failed else TrialState.COMPLETE
            self._study.tell(trial, None if failed else values, state=state, skip_if_finished=True)

    def _give_up(self, trial: Trial) -> None:
        """Put a trial that was stopped in line again."""
        with self._working():
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            self._study.enqueue_trial(trial.params)

    def _fail_abandoned(self) -> None:
        """Fail trials whose process is gone, and put them in line again.

        A process of this machine can be asked for; one of another machine is given up if it takes far longer than all others
        did. Clocks of machines differ, so only the own one counts.
        """
        trials, now = self._all(), time.monotonic()
        limit = max(PATIENCE, SLOWER * max((t.user_attrs.get(SECONDS, 0.0) for t in trials), default=0.0))
        for t in trials:
            if t.state != TrialState.RUNNING:
                continue
            waited = now - self._seen.setdefault(t.number, now)
            if _is_gone(t.user_attrs.get(WORKER, "")) or waited > limit:
                self._study.tell(t.number, state=TrialState.FAIL, skip_if_finished=True)
                self._study.enqueue_trial(t.params)

    def _first(self) -> Mapping[str, Any]:
        """What is kept with the first trial."""
        return next((t.user_attrs for t in self._all() if SETUP in t.user_attrs), {})

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """One line if the storage cannot be opened."""
        try:
            with _unwarned():
                yield
        except OptionError:
            raise
        except ImportError as e:
            driver = "needs a driver that is not installed; pip install it (for PostgreSQL psycopg[binary])"
            raise OptionError(f"--storage {self.place}: {driver}") from e
        except Exception as e:  # of Optuna, SQLAlchemy, a driver, or the journal's parser
            what = f"cannot be opened: {_reason(e)}"
            expected = "expected the URL of a database that runs, or a file that 'onnxprune search' wrote"
            raise OptionError(f"--storage {self.place}: {what}; {expected}") from e

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One line if the storage fails later."""
        try:
            with _unwarned():
                yield
        except (optuna.exceptions.StorageInternalError, OSError) as e:
            what = f"failed: {_reason(e)}; what is in it is kept, and the same command goes on"
            raise OutputError(f"--storage {self.place}: {what}") from e


class Mutations(BaseSampler):
    """Trials near the front: one of its trials, or two of them mixed, with a few parameters changed.

    With a parameter per layer there are too few trials to model all of them, or to begin with random ones. Random numbers
    follow from the number of a trial, so that what one process does repeats, stopped in between or not, and several processes
    do different things.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that are chosen together: those of the trials before."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return dict(done[0].distributions) if done else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values, which no trial had before, if that is possible."""
        trials = study.get_trials(deepcopy=False)
        done = [t for t in trials if t.state == TrialState.COMPLETE]
        if not done:
            return {}
        rng, known = np.random.default_rng([self._seed, trial.number]), {_key(t.params) for t in trials}
        front = [t.params for t in front_of(done, lambda t: (t.values[0], t.values[1]))]
        for _ in range(ATTEMPTS):
            found = self._near(front, search_space, rng)
            if _key(found) not in known:
                break
        return found

    def _near(
        self, front: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution], rng: np.random.Generator
    ) -> dict[str, Any]:
        one, other = (front[int(rng.integers(len(front)))] for _ in range(2))
        one = front[0] if rng.random() < FAITHFUL else one
        mixed = rng.random() < MIXED
        found = {name: (other if mixed and rng.random() < 0.5 else one)[name] for name in space}
        for name, values in space.items():
            assert isinstance(values, CategoricalDistribution)
            if rng.random() < CHANGED / len(space):
                found[name] = values.choices[int(rng.integers(len(values.choices)))]
        return found

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a parameter that no trial had before."""
        assert isinstance(param_distribution, CategoricalDistribution)
        return param_distribution.choices[0]


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


class _Lock:
    """A lock on a journal that the system releases when its process ends, however that happens."""

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock, and cut off what a process that was killed has left half-written."""
        self._file = Path(self._path).open("r+b")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(end - 1, 0))
        if self._file.read(1) not in (b"", b"\n"):
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release it."""
        self._file.close()


def check_storage(storage: str | None) -> None:
    """Reject a file for trials whose folder is not there, before anything is opened.

    Raises:
        OutputError: there is no such folder, or it cannot be written to.
    """
    if storage is not None and "://" not in storage:
        check_folder(Path(storage))


def _storage(storage: str | None) -> BaseStorage | None:
    """Where trials are kept; None: in memory."""
    if storage is None:
        return None
    if "://" not in storage:
        lock: Any = _Lock(storage) if fcntl else JournalFileOpenLock(storage)
        return JournalStorage(JournalFileBackend(storage, lock))
    waits = storage.startswith(("postgresql", "mysql"))
    return RDBStorage(storage, engine_kwargs={"connect_args": {"connect_timeout": CONNECTING}} if waits else None)


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _is_gone(worker: str) -> bool:
    """Whether a process of this machine has ended."""
    node, _, number = worker.rpartition(":")
    if node != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _reason(e: BaseException) -> str:
    """The first line of an error, or of what caused it, without a password."""
    cause = e.__cause__ if isinstance(e, optuna.exceptions.StorageInternalError) and e.__cause__ else e
    first = first_line(cause)
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", first)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without Optuna's warnings of parts that may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
