"""One training on several processes: who works on what, and how what they found becomes one.

The processes are those that `torchrun` or `accelerate launch` started, on one machine or several; without either there
is one. Rows of a batch are dealt out, and gradients are added up here, not by Accelerate's `prepare` or DDP: those take
the mean over the processes of means over their rows, which is another loss where terms concern some rows only, and
they expect every parameter to have one gradient a step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, nn
from torch.optim import Optimizer

from lipsmith.errors import LipsmithError, RecipeError, RuntimeUnavailableError
from lipsmith.machine import core_quota

T = TypeVar("T")

# The others wait while the main process validates.
_PATIENCE = timedelta(hours=2)


class Processes:
    """The processes that train together, seen from one of them.

    Attributes:
        device: Where this one computes.
        index: 0 is the main one, which alone writes files and validates.
        count: How many there are.
        norms_are_shared: Whether forward passes wait for one another, see `share_norms`.
    """

    def __init__(self) -> None:
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        self.device: torch.device = state.device
        self.index: int = state.process_index
        self.count: int = state.num_processes
        self.norms_are_shared = False
        quota = core_quota()
        if quota is not None and torch.get_num_threads() > quota:  # PyTorch counts the cores of the machine
            torch.set_num_threads(quota)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, validates and reports."""
        return self.index == 0

    def rows(self, total: int) -> range:
        """This process's rows of a batch of `total`, dealt out in turn.

        Raises:
            RecipeError: There are fewer rows than processes.
        """
        if total < self.count:
            raise RecipeError(
                f"A batch of {total} clips cannot be divided among {self.count} processes: make `batch` larger, or "
                "start fewer."
            )
        return range(self.index, total, self.count)

    def own_part(self, part: slice) -> slice:
        """Which of this process's rows belong to `part` of the batch; some do if it has a row for each process."""
        first, end = (len(range(self.index, edge, self.count)) for edge in (part.start, part.stop))
        return slice(first, end)

    def begin_randomness(self, seed: int) -> None:
        """Seed what is drawn from torch's own source, dropout above all: it is to differ between processes."""
        torch.manual_seed(seed + self.index)

    def add(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over the processes."""
        if self.count == 1:
            return list(values)
        return sum_over_processes(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def add_gradients(self, optimiser: Optimizer) -> None:
        """Make the gradients of an optimiser's parameters the sum over the processes."""
        if self.count == 1:
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # What has a gradient nowhere is to have none: an optimiser leaves it alone then.
        present = gradients[0].new_tensor([p.grad is not None for p in parameters])
        summed = sum_over_processes(torch.cat([present, *(gradient.flatten() for gradient in gradients)]))
        present, *parts = summed.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, is_present, part in zip(parameters, present.tolist(), parts, strict=True):
            parameter.grad = part.view_as(parameter) if is_present else None

    def gather(self, value: T) -> list[T]:
        """The value of every process, the main one's first."""
        if self.count == 1:
            return [value]
        with _in_company():
            return gather_object([value])

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` gives in the main process, which alone does it; what it raises is raised in all."""
        if self.count == 1:
            return work()
        found: list[Any] = [None]
        with self.together():
            if self.is_main:
                found = [work()]
        with _in_company():
            return broadcast_object_list(found)[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process raises in here (a `LipsmithError`) is raised in all; the main one is to tell it."""
        if self.count == 1:
            yield
            return
        own: LipsmithError | None = None
        try:
            yield
        except LipsmithError as error:
            own = error
        failures = [error for error in self.gather(own) if error is not None]
        if failures:
            failure = own or failures[0]
            failure.is_told_elsewhere = not self.is_main
            raise failure

    def share_norms(self, network: nn.Module) -> None:
        """Make the batch norms of a network that learns see the rows of all processes; names of tensors stay."""
        if self.count == 1 or not any(isinstance(part, nn.BatchNorm2d) for part in network.modules()):
            return
        self.norms_are_shared = True
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            _replace_norms(network)


def is_main_process() -> bool:
    """Whether this process is the one that reports; true where there is one only."""
    return Processes().is_main


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of equally shaped tensors of all processes; to be asked for by all of them."""
    with _in_company():
        return reduce(values, "sum")


@contextmanager
def _in_company() -> Iterator[None]:
    """Around what waits for the other processes: says so in one sentence where one of them is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeUnavailableError(
            "Another process of this training has ended: its own message, or the launcher's, says why."
        ) from error


class _Sum(torch.autograd.Function):
    """The sum over the processes, with gradient: each process's value has its share in every process's loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_processes(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)


class _SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the rows of all processes, where torch's `SyncBatchNorm` does not run: on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, h, w) → the same, n rows here."""
        if not self.training:
            return super().forward(x)
        values, kind = x.to(self.weight.dtype), self.weight.dtype
        here = x.numel() // self.num_features
        variance, mean = (part.double() for part in torch.var_mean(values, (0, 2, 3), correction=0))
        # Moments add up; in double precision their difference loses nothing.
        sums = _Sum.apply(torch.cat([mean.new_tensor([1.0]), mean, variance + mean.square()]) * here)
        count = sums[0].detach()
        mean, square = (sums[1:] / count).chunk(2)
        variance = square - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.running_mean.lerp_(mean.to(kind), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(kind), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt().to(kind)
        middle, scale, shift = (part.view(-1, 1, 1) for part in (mean.to(kind), scale, self.bias))
        return ((values - middle) * scale + shift).to(x.dtype)


def _replace_norms(network: nn.Module) -> None:
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm2d):
            shared = _SharedBatchNorm(part.num_features, part.eps, part.momentum)
            # The very same tensors: optimisers may hold them already.
            shared._parameters, shared._buffers = part._parameters, part._buffers
            setattr(network, name, shared)
        else:
            _replace_norms(part)
