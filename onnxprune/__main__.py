# SPDX-License-Identifier: Apache-2.0
"""`python -m onnxprune`."""

from onnxprune.cli.start import main

main()
