# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

from __future__ import annotations

import onnxruntime

onnxruntime.set_default_logger_severity(4)
