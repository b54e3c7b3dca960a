"""Batches in as many parts as memory allows: out of memory halves what is computed at once, not what is learned from.

Gradients of the parts add up to those of the whole batch (batch norms aside, which see a part at a time). Several
processes take their share of each part.
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
    """`work` with this process's parts of a batch; after each failure for lack of memory with twice as many.

    Args:
        run: Remembers how many.
        rows: Clips of the whole batch, over all processes.
        work: Must begin anew each time: clear gradients first, and change nothing else before it is through.

    Raises:
        RuntimeUnavailableError: One clip at a time does not fit either; or memory was short in one of several
            processes that wait for one another in their batch norms, so that the others cannot be told.
    """
    processes = run.processes
    most = rows // processes.count
    while True:
        parts, failed = min(run.state.parts, most), False
        try:
            found = work([processes.own_part(part) for part in split_rows(rows, parts)])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if processes.norms_are_shared:
                raise RuntimeUnavailableError(
                    f"Step {run.state.step} does not fit into the memory of process {processes.index}. Set `parts` in "
                    f"the recipe to {2 * parts}, and go on with --resume."
                ) from error
            failed = True
        if not any(processes.add([failed])):
            return found
        # Outside of the handler: the traceback no longer holds on to the tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if parts >= most:
            raise RuntimeUnavailableError(
                f"Step {run.state.step} does not fit into memory with one clip at a time. Use fewer frames "
                "(batch.frames), a smaller model.width, or a machine with more memory."
            )
        run.state.parts = min(2 * parts, most)
        run.note(
            f"Out of memory: from here on a batch is computed in {run.state.parts} parts, whose gradients are added up."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
