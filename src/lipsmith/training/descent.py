"""How a training takes its steps: precision, parts of a batch, several processes."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipsmith.errors import RecipeError
from lipsmith.training.memory import in_parts
from lipsmith.training.recipe import Precision
from lipsmith.training.run import Run

T = TypeVar("T")

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto` is bf16 where `device` computes in it, else fp32: on other processors bf16 takes several times as long."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        has_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if has_bf16 else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """What a forward pass runs in."""
    precision = resolve_precision(precision, device)
    return torch.autocast(device.type, _TYPES[precision], enabled=precision != "fp32")


class Descent:
    """Computes gradients and steps.

    Args:
        precision: Of the forward passes. Weights, gradients and losses are fp32 in any case.
        device: Where they run.

    Attributes:
        scaler: Keeps the gradients of fp16 from vanishing; does nothing in another precision.

    Raises:
        RecipeError: fp16 without a GPU.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        if precision == "fp16" and device.type != "cuda":
            raise RecipeError("precision: fp16 needs a GPU; on a CPU use bf16 or fp32.")
        self.precision: Precision = resolve_precision(precision, device)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def gradients(
        self, run: Run, optimiser: Optimizer, rows: int, compute: Callable[[slice], tuple[Tensor, T]]
    ) -> list[T]:
        """Give an optimiser's parameters the gradients of one batch of all processes.

        Args:
            run: Says in how many parts the batch is worked off.
            optimiser: Its parameters lose the gradients that they had.
            rows: Clips of the whole batch, over all processes.
            compute: Is asked for one part of this process's rows after another. What it gives first is what the part
                adds to the loss of the whole batch; the rest is collected.
        """

        def descend(parts: list[slice]) -> list[T]:
            optimiser.zero_grad(set_to_none=True)
            found = []
            for part in parts:
                with autocast(self.precision, self.device):
                    loss, other = compute(part)
                self.scaler.scale(loss).backward()
                found.append(other)
            return found

        found = in_parts(run, rows, descend)
        run.processes.add_gradients(optimiser)
        self.scaler.unscale_(optimiser)
        return found

    def take(self, optimiser: Optimizer) -> None:
        """The optimiser's step; none where fp16 has overflowed."""
        self.scaler.step(optimiser)

    def take_clipped(
        self, optimiser: Optimizer, parameters: Iterable[nn.Parameter], clip_norm: float
    ) -> None:
        """`take`, with gradients of a norm of at most `clip_norm`; no step where they are no numbers."""
        if bool(torch.isfinite(nn.utils.clip_grad_norm_(parameters, clip_norm))):
            self.take(optimiser)

    def end_step(self) -> None:
        """To be called after the last optimiser's step."""
        self.scaler.update()
