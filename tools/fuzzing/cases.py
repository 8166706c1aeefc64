# SPDX-License-Identifier: Apache-2.0
"""One run of the program: the files that it finds, and its command line."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LINK, FIFO, SOCKET = b"link:", b"fifo:", b"socket:"
"""Contents of a file that is made as a link (to what follows), a pipe or a socket."""
NAMED = {"-o", "--output", "--plan", "--picture", "--profile", "--storage"}
"""Options that name a file to write."""


@dataclass(frozen=True)
class Case:
    """One run of the program.

    Attributes:
        name: kind, seed and number; it determines everything else.
        what: what is odd about it.
        files: path in the folder where the program runs -> contents.
        arguments: the command line.
        model: the file that onnxruntime is tried with; empty if that says nothing.
    """

    name: str
    what: str
    files: Mapping[str, bytes]
    arguments: tuple[str, ...]
    model: str = ""

    @property
    def kind(self) -> str:
        """What was mutated: models, plans, data, images or options."""
        return self.name.partition("/")[0]

    def write(self, folder: Path) -> None:
        """Make the files."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if data.startswith(LINK):
                path.symlink_to(os.fsdecode(data.removeprefix(LINK)))
            elif data == FIFO:
                os.mkfifo(path)
            elif data == SOCKET:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(os.path.relpath(path))
            elif name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(data)

    def may_write(self, path: str) -> bool:
        """Whether the command line lets the program make this file: `m.pruned.onnx`, or a name that it gives."""
        name = Path(path).name
        words = self.arguments
        given = [words[k + 1] for k, word in enumerate(words[:-1]) if word in NAMED]
        given += [word.partition("=")[2] for word in words if word.partition("=")[0] in NAMED]
        given += [word[2:] for word in words if word.startswith("-o") and len(word) > 2]
        stems = [Path(word).name.partition(".")[0] for word in given if word]
        return any(part in name for part in (".pruned.", ".unified.", ".searched.")) or any(
            name.startswith(stem) for stem in stems
        )
