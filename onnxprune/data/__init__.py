# SPDX-License-Identifier: Apache-2.0
"""Inputs that the user gives, or that are made up: to fit weights on, and to judge results by."""

from onnxprune.data.arrays import read_arrays
from onnxprune.data.entry import function_named
from onnxprune.data.load import Labels, Source, load_data, random_data
from onnxprune.data.samples import Data

__all__ = ["Data", "Labels", "Source", "function_named", "load_data", "random_data", "read_arrays"]
