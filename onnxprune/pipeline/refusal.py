# SPDX-License-Identifier: Apache-2.0
"""One door for models that do not run: whatever goes wrong with one of them is put down to that.

What goes wrong with a model that runs is a mistake of this program, and is not touched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from onnx import ModelProto

from onnxprune.errors import ModelError, PruneError, VerificationError
from onnxprune.evaluation.verification import NoRunError
from onnxprune.ir.files import Loaded, content_of, load
from onnxprune.ir.graph import all_nodes
from onnxprune.ir.tensors import size_of
from onnxprune.options import Options
from onnxprune.types import Shapes

if TYPE_CHECKING:
    from onnxprune.evaluation.trial import Trial

P = ParamSpec("P")
R = TypeVar("R")
MOST, SHORTEST = 280, 160
"""Characters of a refusal with the name of the file, and of what is quoted at least."""
INVALID = "onnxruntime does not accept this model: "
AGAIN = "; export it again"
SIZES = "; export it again, or give the sizes of its inputs with --input-shape"
UNKNOWN = "; to cut it all the same, unverified: --no-verify --no-bench --recover none"


def opened(source: Any, folds: bool = True) -> Loaded:
    """A model, as `ir.files.load` reads it.

    Raises:
        ModelError: it cannot be read, is not supported, or does not run.
    """
    name = str(source) if isinstance(source, str | Path) else "the given model"

    def check(model: ModelProto) -> None:
        """Try a model that may run for ever, before anything else runs it."""
        bodies = (model.graph.node, *(f.node for f in model.functions))
        if any(node.op_type == "Loop" for nodes in bodies for node in all_nodes(nodes)):
            found = _trial(source, {}, size_of(model))
            if found.harmful or found.declined:
                raise _refusal(name, found.why or INVALID + found.declined)

    with _blaming(name, source, {}):
        return load(source, folds, check)


@contextmanager
def refusing(loaded: Loaded, shapes: Shapes | None = None) -> Iterator[None]:
    """Work on a model; an error that is not the user's is put down to the model if it does not run.

    Args:
        shapes: of its inputs, where the user states them.

    Raises:
        ModelError: the model does not run.
    """
    with _blaming(loaded.name, loaded.given, shapes or {}, loaded.size or 0):
        yield


def refuses(shapes: Callable[..., Shapes]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function whose first argument is a loaded model `refusing`.

    Args:
        shapes: given its arguments, the shapes of inputs that the user states.
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            loaded: Any = args[0]
            with refusing(loaded, shapes(*args, **kwargs)):
                return function(*args, **kwargs)

        return call

    return made


def of_options(loaded: Loaded, options: Options, *_: Any, **__: Any) -> Shapes:
    """The shapes that options state."""
    return options.data.input_shape


@contextmanager
def _blaming(name: str, source: Any, shapes: Shapes, size: int = 0) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        if isinstance(e, PruneError) and not isinstance(e, VerificationError):
            raise
        found = _trial(source, shapes, size)
        why = found.why
        if found.declined and not isinstance(e, PruneError):  # what only the reference evaluator takes, in its lenient way
            why = why or INVALID + found.declined
        if why:
            raise _refusal(name, why) from e
        if isinstance(e, NoRunError):  # it takes other inputs than tensors, or sizes that nobody has stated
            raise ModelError(f"{name}: {e.message}, or use --no-verify") from e
        raise


def _refusal(name: str, why: str) -> ModelError:
    advice = UNKNOWN if "not a registered" in why else SIZES if "running " in why else AGAIN
    room = max(SHORTEST, MOST - len(name) - len(advice))
    return ModelError(f"{name}: {why[:room]}{advice}")


def _trial(source: Any, shapes: Shapes, size: int = 0) -> Trial:
    """Whether a model runs."""
    from onnxprune.evaluation.trial import Trial, try_out  # on demand, for a quick start

    try:
        content = source.SerializeToString() if isinstance(source, ModelProto) else content_of(Path(source))
    except Exception:  # it is too large, or was never a model: then that was said
        return Trial()
    return try_out(content, shapes, size)
