# SPDX-License-Identifier: Apache-2.0
"""Files from which work that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onnxprune.errors import OptionError, TrainingError, first_line
from onnxprune.ir.placing import written_whole


@dataclass(frozen=True)
class Checkpoint:
    """A file, and what was asked of the work in it: nothing else is continued.

    Attributes:
        path: the file.
        asked: settings by name, of numbers, strings, bools or None.
    """

    path: Path
    asked: Mapping[str, Any] = field(repr=False)

    def read(self) -> dict[str, Any] | None:
        """What was written; None if nothing was.

        Raises:
            TrainingError: the file cannot be read.
            OptionError: it was made with other settings.
        """
        if not self.path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as e:  # torch raises many kinds of errors for a damaged file
            raise TrainingError(f"{self.path}: cannot be read: {first_line(e)}; delete it to train again") from e
        if differs := next((key for key in self.asked if self.asked[key] != found["asked"].get(key)), None):
            was, now = found["asked"].get(differs), self.asked[differs]
            raise OptionError(
                f"{self.path}: was trained with {differs} {was}, now {now}; choose another folder, or delete the file"
            )
        return found

    def write(self, content: Mapping[str, Any]) -> None:
        """Write tensors, numbers, strings, lists, tuples and dicts: all of it or nothing."""
        with written_whole(self.path) as [draft]:
            torch.save({**content, "asked": dict(self.asked)}, draft)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)
