"""What a runtime is, the table of runtimes, and what all of them do with a batch."""

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lipsmith.conditioning import face_channels
from lipsmith.errors import RuntimeUnavailableError, UsageError
from lipsmith.timebase import NUM_MELS, WINDOW_COLUMNS

FloatArray = NDArray[np.float32]

# Files of a weights folder that runtimes read.
SAFETENSORS_NAME = "generator.safetensors"
OPENVINO_NAME = "generator.xml"  # with generator.bin beside it


@runtime_checkable
class GeneratorRuntime(Protocol):
    """A generator ready to run: loaded, on its device, in evaluation mode.

    One call at a time: an instance is not shared between threads that call at once.
    """

    name: str
    """Name in `RUNTIMES`."""
    device: str
    """Where it computes: "cpu", "cuda", "cuda:1", "mps"."""
    face_size: int
    """Side S of the faces in pixels."""
    num_references: int
    """How many faces it sees beside the masked one (`lipsmith.conditioning.NUM_REFERENCES`)."""

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """Generate one face for each window of sound.

        Args:
            mels: (n, 1, 80, 16) float32, the window of the mel that each frame hears, -4 to 4.
            faces: (n, 6, S, S) float32, BGR 0 to 1: the target, its lower half zeroed, then the reference; or
                (n, 9, S, S), of weights that see two references (`lipsmith.conditioning.ReferenceForm`).

        Returns:
            (n, 3, S, S) float32, BGR 0 to 1, a new array. Any n, 0 included: a runtime splits and pads as
            suits it, and what a row holds does not depend on its neighbours. Generators that paint the lower half may
            leave rows above `lipsmith.conditioning.first_painted_row` as they are in the target.

        Raises:
            ValueError: another shape or dtype.
            RuntimeUnavailableError: `close` was called before, or this is a fork of the process that loaded it.
        """
        ...

    def close(self) -> None:
        """Free the device's memory; calling it again does nothing."""
        ...


RUNTIMES: dict[str, str] = {
    "openvino": "lipsmith.runtime.openvino:OpenVinoGenerator",
    "torch": "lipsmith.runtime.torch:TorchGenerator",
}

MOST_ARTICULATION = 3.0  # far beyond what any mouth does

# What to install where an import of a runtime's module fails for want of this package.
_INSTALL = {
    "openvino": "openvino",
    "torch": "'lipsmith[torch]'",
    "safetensors": "'lipsmith[torch]'",
}


def resolve_runtime(
    name: str, folder: Path, *, device: str = "auto", threads: int | None = None, articulation: float = 1.0
) -> GeneratorRuntime:
    """The runtime `name` of `RUNTIMES` with the generator of the weights folder `folder`.

    Args:
        name: "openvino" or "torch".
        folder: holds generator.xml and generator.bin, or generator.safetensors and card.toml.
        device: "auto" takes the best that is present; else a name that the runtime knows.
        threads: most CPU threads to compute with, at least 1; None takes all cores.
        articulation: how far the mouth moves from where it rests in silence: 0 not at all, 1 as trained; a little
            above 1 makes up for what training on a mean error takes away.

    Raises:
        UsageError: unknown `name`, `threads` below 1, `articulation` not from 0 to 3.
        RuntimeUnavailableError: the runtime is not installed, or the device is not present.
        WeightsError: the folder lacks the runtime's files, or they are damaged.
    """
    if name not in RUNTIMES:
        raise UsageError(f"There is no runtime “{name}”. There are: {', '.join(sorted(RUNTIMES))}.")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads: at least 1 is needed.")
    if not 0 <= articulation <= MOST_ARTICULATION:
        raise UsageError(f"An articulation of {articulation:g}: it can be 0 to {MOST_ARTICULATION:g}.")
    module_name, _, attribute = RUNTIMES[name].partition(":")
    try:
        make: Any = getattr(import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _INSTALL:
            raise
        raise RuntimeUnavailableError(
            f"The {name} runtime needs the package {package}, which is not installed: "
            f"pip install {_INSTALL[package]}"
        ) from error
    runtime: GeneratorRuntime = make(Path(folder), device=device, threads=threads, articulation=articulation)
    return runtime


def check_inputs(mels: FloatArray, faces: FloatArray, face_size: int, num_references: int = 1) -> None:
    """Refuse what a network that sees so many references cannot be given, with both shapes in the message.

    Raises:
        ValueError: another shape or dtype than `GeneratorRuntime.generate` asks for.
    """
    for name, array, shape in (
        ("mels", mels, (1, NUM_MELS, WINDOW_COLUMNS)),
        ("faces", faces, (face_channels(num_references), face_size, face_size)),
    ):
        if array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}; it must be float32 (faces from 0 to 1, not 0 to 255)")
        if array.shape[1:] != shape or array.ndim != 4:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"{name} has shape {array.shape}; it must be (n, {wanted})")
    if len(mels) != len(faces):
        raise ValueError(f"{len(mels)} windows of sound for {len(faces)} faces; there must be one for each")


def check_process(loaded_in: int) -> None:
    """Refuse to compute in a fork of the process `loaded_in`: it would wait for ever for threads that stayed behind.

    Raises:
        RuntimeUnavailableError: this is another process.
    """
    if os.getpid() != loaded_in:
        raise RuntimeUnavailableError(
            "These weights were loaded before this process was forked from another; load them in the process that "
            "uses them, or start processes by “spawn”."
        )


def split_rows(num_rows: int, batch: int) -> Iterator[slice]:
    """Slices of at most `batch` rows that cover `num_rows` in order."""
    for start in range(0, num_rows, batch):
        yield slice(start, min(start + batch, num_rows))
