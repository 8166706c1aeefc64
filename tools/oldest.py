# SPDX-License-Identifier: Apache-2.0
"""The lowest versions that pyproject.toml allows, as constraints for pip.

    python tools/oldest.py [EXTRA ...] > oldest.txt
    pip install --constraint oldest.txt --editable '.[images,search]'

Requirements of the program, and of the extras that are named, one a line and in the order of the file; each keeps its marker.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[\w.-]+)\s*(?P<how>>=|==)\s*(?P<version>[\w.]+)\s*(?P<marker>;.*)?")


def lowest(requirement: str) -> str:
    """A requirement that allows only the lowest version.

    Raises:
        ValueError: it states no lowest version, or more than that.

    >>> lowest("tomli>=2.0; python_version < '3.11'")
    "tomli==2.0; python_version < '3.11'"
    """
    found = BOUND.fullmatch(requirement.strip())
    if found is None:
        raise ValueError(f"pyproject.toml: got '{requirement}', expected NAME>=VERSION or NAME==VERSION")
    return f"{found['name']}=={found['version']}{found['marker'] or ''}"


def oldest(project: Mapping[str, Any], extras: Iterable[str] = ()) -> list[str]:
    """The lowest versions of what a project requires, each once.

    Args:
        project: the table `project` of a pyproject.toml.
        extras: names of its optional dependencies. What states no bound there is left out: a tool for developers.

    Raises:
        ValueError: a bound cannot be read.
        KeyError: there is no such extra.
    """
    required = [lowest(r) for r in project["dependencies"]]
    optional = [r for extra in extras for r in project["optional-dependencies"][extra]]
    return list(dict.fromkeys([*required, *(lowest(r) for r in optional if not re.fullmatch(r"[\w.-]+", r))]))


def read() -> Mapping[str, Any]:
    """The table `project` of this project."""
    found: Mapping[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return found


def main() -> None:
    """Print them."""
    print(*oldest(read(), sys.argv[1:]), sep="\n")


if __name__ == "__main__":
    main()
