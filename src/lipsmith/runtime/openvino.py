"""The default runtime: OpenVINO on the CPU, from `generator.xml` and `generator.bin` of a weights folder."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipsmith.conditioning import NUM_REFERENCES, face_channels
from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.machine import is_learning_on
from lipsmith.runtime.articulation import articulate
from lipsmith.runtime.base import OPENVINO_NAME, FloatArray, check_inputs, check_process, split_rows
from lipsmith.runtime.tuning import (
    Division,
    Trial,
    available_threads,
    candidates,
    division_key,
    recall,
    remember,
)
from lipsmith.timebase import NUM_MELS, WINDOW_COLUMNS

DEVICES = ("auto", "cpu")

# Calls of one size in a row after which that size gets a network compiled for it; till then rows are padded.
_STEADY_CALLS = 3
_SAMPLED_BYTES = 2**16


class OpenVinoGenerator:
    """A generator compiled for this processor. See `GeneratorRuntime`.

    Networks are compiled for a fixed number of rows, because OpenVINO plans memory and kernels better for known
    shapes. How many rows go together and how many batches run at once is tried on the first few hundred faces,
    remembered for this machine (`lipsmith.runtime.tuning`), and no part of what the faces look like.

    Args:
        folder: holds generator.xml and generator.bin.
        device: "auto" or "cpu".
        threads: most threads; None: one a physical core.
        articulation: see `resolve_runtime`.
        division: how the work is divided; None: as remembered, or else tried.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, or does not know the device.
        WeightsError: the files are missing, damaged, or not a generator.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        articulation: float = 1.0,
        division: Division | None = None,
    ) -> None:
        if device.lower() not in DEVICES:
            raise RuntimeUnavailableError(
                f"The openvino runtime has no device “{device}”; it has: {', '.join(DEVICES)}. "
                "For a GPU use the torch runtime."
            )
        path = Path(folder) / OPENVINO_NAME
        self._model: Any = read_generator(path)
        channels, self.face_size = (
            self._model.inputs[1].get_partial_shape()[axis].get_length() for axis in (1, 2)
        )
        self.num_references = next(n for n in NUM_REFERENCES.values() if face_channels(n) == channels)
        self._threads = threads
        self._articulation = articulation
        self._is_articulated = articulation == 1
        self._trial: Trial | None = None
        self._key = ""
        if division is None:
            division = self._begin_trial(path)
        self._division = division
        self._networks: dict[tuple[int, int], _Network] = {}  # by rows and streams
        # The network of the start is kept for the next one; those that a trial goes through are not.
        self._networks[self._full] = _Network(
            self._source,
            *self._full,
            threads,
            known_by=f"{_identity(path)} articulation {articulation!r}",
        )
        self._recent: deque[tuple[int, int]] = deque(maxlen=_STEADY_CALLS)
        self._process = os.getpid()

    def _source(self) -> Any:
        """The network that is to be compiled."""
        if not self._is_articulated:  # here, because a network that is kept compiled has no need of it
            articulate(self._model, self._articulation)
            self._is_articulated = True
        return self._model

    def _begin_trial(self, path: Path) -> Division:
        """What is remembered of this machine; else the first candidate, the others to be tried."""
        threads = available_threads(self._threads)
        choices = candidates(threads)
        if not is_learning_on():
            return choices[0]
        self._key = division_key(path.read_bytes(), threads, ("openvino",))
        remembered = recall(self._key, choices)
        if remembered is None and len(choices) > 1:
            self._trial = Trial(choices)
        return remembered or choices[0]

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """(n, 1, 80, 16), (n, 6 or 9, S, S) → (n, 3, S, S). See `GeneratorRuntime.generate`."""
        check_inputs(mels, faces, self.face_size, self.num_references)
        if self._model is None:
            raise RuntimeUnavailableError("This generator was closed; resolve a new one.")
        check_process(self._process)
        generated = np.empty((len(faces), 3, self.face_size, self.face_size), np.float32)
        if not len(faces):
            return generated
        network = self._network_for(len(faces))
        start = time.perf_counter()
        network.run(mels, faces, generated)
        # A single face, as in live use, cannot be divided: no candidate differs, and a trial would only make it wait.
        if self._trial is not None and len(faces) > 1:
            self._trial.add(len(faces), time.perf_counter() - start)
            self._follow_trial(self._trial)
        return generated

    def _network_for(self, num_rows: int) -> "_Network":
        """The network for a call of `num_rows`: one of its own once calls of that size are the rule."""
        rows = self._division.rows_together(num_rows)
        # A single batch gets all threads, as live use wants it.
        shape = rows, min(self._division.streams, -(-num_rows // rows))
        self._recent.append(shape)
        if shape not in self._networks and list(self._recent) == [shape] * _STEADY_CALLS:
            # Two at most: the one for full batches, and the one for what callers bring now.
            self._networks = {self._full: self._networks[self._full]}
            return self._network(shape)
        return self._networks.get(shape) or self._networks[self._full]

    @property
    def _full(self) -> tuple[int, int]:
        return self._division.batch, self._division.streams

    def _network(self, shape: tuple[int, int]) -> "_Network":
        if shape not in self._networks:
            self._networks[shape] = _Network(self._source, *shape, self._threads)
        return self._networks[shape]

    def _follow_trial(self, trial: Trial) -> None:
        if trial.division != self._division:
            self._networks.clear()  # before the next is compiled: both would be in memory
            self._division = trial.division
            self._network(self._full)
            self._recent.clear()
        if trial.is_over:
            remember(self._key, trial)
            self._trial = None

    def close(self) -> None:
        """Free the compiled networks."""
        self._networks.clear()
        self._model = None


@dataclass(slots=True)
class _Slot:
    """One stream: its request, and a pair of input arrays that serve all its batches."""

    request: Any
    mels: FloatArray
    faces: FloatArray
    rows: slice | None = None  # what it is at work on


class _Network:
    """The generator compiled for batches of `rows` rows, `streams` of them at once."""

    def __init__(
        self,
        source: Callable[[], Any],
        rows: int,
        streams: int,
        threads: int | None,
        *,
        known_by: str | None = None,
    ) -> None:
        self._rows = rows

        def shaped() -> Any:
            copy = source().clone()
            copy.reshape(
                {number: [rows, *port.get_partial_shape()[1:]] for number, port in enumerate(copy.inputs)}
            )
            return copy

        if known_by is not None:
            known_by = f"{known_by} {rows} rows"
        compiled = compile_on_cpu(
            shaped, threads=threads, options={"NUM_STREAMS": streams}, known_by=known_by
        )
        self._slots = [
            _Slot(
                compiled.create_infer_request(),
                # Behind a short last batch lie former rows, which are not read.
                np.zeros(compiled.inputs[0].get_shape(), np.float32),
                np.zeros(compiled.inputs[1].get_shape(), np.float32),
            )
            for _ in range(streams)
        ]

    def run(self, mels: FloatArray, faces: FloatArray, generated: FloatArray) -> None:
        """Fill `generated`, one face for each row of the inputs."""
        try:
            for number, rows in enumerate(split_rows(len(faces), self._rows)):
                slot = self._slots[number % len(self._slots)]
                _collect(slot, generated)
                count = rows.stop - rows.start
                slot.mels[:count], slot.faces[:count] = mels[rows], faces[rows]
                slot.request.start_async([slot.mels, slot.faces], share_inputs=True)
                slot.rows = rows
        finally:  # an interrupt must not leave a request at work on arrays that are used again
            for slot in self._slots:
                _collect(slot, generated)


def _collect(slot: _Slot, generated: FloatArray) -> None:
    """Wait for `slot`, and copy what it made to its place."""
    if slot.rows is not None:
        rows, slot.rows = slot.rows, None
        slot.request.wait()
        generated[rows] = slot.request.get_output_tensor(0).data[: rows.stop - rows.start]


def _identity(path: Path) -> str:
    """What tells the network at `path` from any other: its layers, and of its weights size, age, beginning and end.

    All of the weights were just read to verify them; reading them once more would take as long as is to be gained.
    """
    weights = path.with_suffix(".bin")
    about = weights.stat()
    digest = hashlib.sha256(path.read_bytes())
    with weights.open("rb") as file:
        digest.update(file.read(_SAMPLED_BYTES))
        file.seek(max(0, about.st_size - _SAMPLED_BYTES))
        digest.update(file.read(_SAMPLED_BYTES))
    return f"generator {digest.hexdigest()} {about.st_size} {about.st_mtime_ns}"


def read_generator(path: Path) -> Any:
    """The `openvino.Model` at `path`, checked to have a generator's inputs and output.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed.
        WeightsError: missing, damaged, or another network.
    """
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise WeightsError(
                f"{file.name} is missing in {file.parent}: the openvino runtime needs it. "
                "`lipsmith export` makes it from a checkpoint."
            )
    ov = import_openvino()
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        raise WeightsError(f"{path} is damaged, or no OpenVINO network: {_first_line(error)}") from error
    shapes = [port.get_partial_shape() for port in (*model.inputs, *model.outputs)]
    face_size = shapes[1][2].max_length if len(shapes) > 1 and len(shapes[1]) == 4 else -1
    wanted = [
        [
            ov.PartialShape([-1, 1, NUM_MELS, WINDOW_COLUMNS]),
            ov.PartialShape([-1, face_channels(count), face_size, face_size]),
            ov.PartialShape([-1, 3, face_size, face_size]),
        ]
        for count in set(NUM_REFERENCES.values())
    ]
    if face_size < 1 or shapes not in wanted:
        raise WeightsError(
            f"{path} is no lip-sync generator: its inputs and outputs are {', '.join(map(str, shapes))}, "
            "not (n, 1, 80, 16), (n, 6 or 9, S, S) → (n, 3, S, S)."
        )
    return model


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")
