# SPDX-License-Identifier: Apache-2.0
"""Inputs that the user gives, or that are made up: to fit weights on, and to judge results by."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.data.arrays import read_arrays
    from onnxprune.data.load import Labels, Source, load_data, random_data
    from onnxprune.data.samples import Data
    from onnxprune.data.user_code import function_named

__all__ = ["Data", "Labels", "Source", "function_named", "load_data", "random_data", "read_arrays"]
HOMES = {"read_arrays": "arrays", "function_named": "user_code", "Data": "samples"}


def __getattr__(name: str) -> Any:
    """Load a name when it is asked for: who imports the package to cut a model needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES.get(name, 'load')}"), name)
