# SPDX-License-Identifier: Apache-2.0
"""The lowest versions that pyproject.toml allows: read from it, never written twice."""

from __future__ import annotations

from typing import Any

import pytest
from oldest import lowest, oldest, read

TABLE: dict[str, Any] = {
    "dependencies": ["numpy>=1.26", "tomli>=2.0; python_version < '3.11'"],
    "optional-dependencies": {"images": ["pillow>=10"], "dev": ["pillow>=10", "types-protobuf", "torch==2.13.0"]},
}


def test_every_bound_becomes_one_version_once() -> None:
    assert oldest(TABLE) == ["numpy==1.26", "tomli==2.0; python_version < '3.11'"]
    assert oldest(TABLE, ["images", "dev"])[2:] == ["pillow==10", "torch==2.13.0"]


@pytest.mark.parametrize("requirement", ["numpy", "numpy<2", "numpy>=1.26,<3", "numpy~=1.26", "numpy[all]>=1.26"])
def test_a_requirement_without_a_plain_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match=r"pyproject.toml: got 'numpy.*expected NAME>=VERSION"):
        lowest(requirement)


def test_every_bound_of_this_project_can_be_read() -> None:
    project = read()
    assert len(oldest(project)) == len(project["dependencies"])
    assert len(oldest(project, project["optional-dependencies"])) > len(project["dependencies"])
