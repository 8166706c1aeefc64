# SPDX-License-Identifier: Apache-2.0
"""Inputs that the user gives, or that are made up: to fit weights on, and to judge results by."""
