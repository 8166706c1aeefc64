# SPDX-License-Identifier: Apache-2.0
"""Figures by matplotlib, which is imported only where one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxprune.errors import OutputError
from onnxprune.ir.placing import check_folder, written_whole


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches.

    Raises:
        OutputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise OutputError("plot: needs matplotlib, which is not installed: pip install matplotlib") from e
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure whole or not at all; the suffix of the path says in which format.

    Raises:
        OutputError: it cannot be written.
    """
    check_folder(path)
    with written_whole(path) as [draft]:
        try:
            figure.savefig(draft, dpi=120, format=path.suffix.lstrip(".") or "png")
        except ValueError as e:  # an unknown format
            raise OutputError(f"{path}: cannot write the plot: {e}") from e
