# SPDX-License-Identifier: Apache-2.0
"""One family of exceptions. Each message says what, where, what was expected, and what to do."""

from __future__ import annotations


class PruneError(Exception):
    """Base of all errors that a user can cause or mend."""


class ModelError(PruneError):
    """The model file cannot be read, or is not a valid ONNX model."""


class OptionError(PruneError):
    """An option or argument is out of range, unknown, or matches nothing."""


class PlanError(PruneError):
    """A plan cannot be read, or belongs to another model."""


class OutputError(PruneError):
    """The output cannot be written."""


class DataError(PruneError):
    """Inputs given with --data do not fit the model."""


class CutError(PruneError):
    """A node could not be cut to its new sizes.

    Attributes:
        node_index: position of the node in the graph, so that the caller can keep its channels and try again.
    """

    def __init__(self, message: str, node_index: int) -> None:
        super().__init__(message)
        self.node_index = node_index


class VerificationError(PruneError):
    """The pruned model does not compute what the masked original computes."""


class TrainingError(PruneError):
    """A model cannot be trained here: PyTorch is missing, or the graph holds what has no counterpart in it."""
