"""Batches in as many parts as memory allows: out of memory halves what is computed at once, not what is learned from.

Gradients of the parts add up to those of the whole batch (batch norms aside, which see a part at a time).
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from lipsmith.errors import RuntimeUnavailableError
from lipsmith.training.run import Run

T = TypeVar("T")


def split_rows(rows: int, parts: int) -> list[slice]:
    """`rows` rows in `parts` contiguous parts of nearly equal length, none of them empty."""
    ends = [rows * (i + 1) // parts for i in range(parts)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False) if end > start]


def in_parts(run: Run, rows: int, work: Callable[[list[slice]], T]) -> T:
    """`work` with the parts of a batch of `rows` clips; after each failure for lack of memory with twice as many.

    `work` must begin anew each time: clear gradients first, and change nothing else before it is through.

    Raises:
        RuntimeUnavailableError: One clip at a time does not fit either.
    """
    while True:
        try:
            return work(split_rows(rows, run.state.parts))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if run.state.parts >= rows:
                raise RuntimeUnavailableError(
                    f"Step {run.state.step} does not fit into memory with one clip at a time. Use fewer frames "
                    "(batch.frames), a smaller model.width, or a machine with more memory."
                ) from error
        # Outside of the handler: the traceback no longer holds on to the tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        run.state.parts = min(2 * run.state.parts, rows)
        run.note(
            f"Out of memory: from here on a batch is computed in {run.state.parts} parts, whose gradients are added up."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
