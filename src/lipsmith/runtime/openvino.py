"""The default runtime: OpenVINO on the CPU, from `generator.xml` and `generator.bin` of a weights folder."""

from pathlib import Path
from typing import Any

import numpy as np

from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.runtime.base import OPENVINO_NAME, FloatArray, check_inputs, split_rows
from lipsmith.timebase import NUM_MELS, WINDOW_COLUMNS

DEVICES = ("auto", "cpu")

# Rows the network is compiled for. Fixed, because OpenVINO plans memory and kernels better for known shapes;
# four, because more no longer helps on two cores and spoils the cache of the full-width network
# (benchmarks/generator.py --batches).
BATCH = 4


class OpenVinoGenerator:
    """A generator compiled for this processor. See `GeneratorRuntime`.

    Args:
        folder: holds generator.xml and generator.bin.
        device: "auto" or "cpu".
        threads: most threads; None: one a physical core.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, or does not know the device.
        WeightsError: the files are missing, damaged, or not a generator.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, folder: Path, *, device: str = "auto", threads: int | None = None) -> None:
        if device.lower() not in DEVICES:
            raise RuntimeUnavailableError(
                f"The openvino runtime has no device “{device}”; it has: {', '.join(DEVICES)}. "
                "For a GPU use the torch runtime."
            )
        path = Path(folder) / OPENVINO_NAME
        model = read_generator(path)
        self.face_size: int = model.inputs[1].get_partial_shape()[2].get_length()
        model.reshape(
            {
                0: [BATCH, 1, NUM_MELS, WINDOW_COLUMNS],
                1: [BATCH, 6, self.face_size, self.face_size],
            }
        )
        self._request: Any = compile_on_cpu(model, threads=threads).create_infer_request()
        # One pair of input arrays for all calls. Behind a short last batch lie former rows, not read.
        self._mels = np.zeros((BATCH, 1, NUM_MELS, WINDOW_COLUMNS), np.float32)
        self._faces = np.zeros((BATCH, 6, self.face_size, self.face_size), np.float32)

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """(n, 1, 80, 16), (n, 6, S, S) → (n, 3, S, S). See `GeneratorRuntime.generate`."""
        check_inputs(mels, faces, self.face_size)
        if self._request is None:
            raise RuntimeUnavailableError("This generator was closed; resolve a new one.")
        generated = np.empty((len(faces), 3, self.face_size, self.face_size), np.float32)
        for rows in split_rows(len(faces), BATCH):
            count = rows.stop - rows.start
            self._mels[:count], self._faces[:count] = mels[rows], faces[rows]
            self._request.infer([self._mels, self._faces], share_inputs=True)
            generated[rows] = self._request.get_output_tensor(0).data[:count]
        return generated

    def close(self) -> None:
        """Free the compiled network."""
        self._request = None


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
        [-1, 1, NUM_MELS, WINDOW_COLUMNS],
        [-1, 6, face_size, face_size],
        [-1, 3, face_size, face_size],
    ]
    if face_size < 1 or shapes != [ov.PartialShape(shape) for shape in wanted]:
        raise WeightsError(
            f"{path} is no lip-sync generator: its inputs and outputs are {', '.join(map(str, shapes))}, "
            "not (n, 1, 80, 16), (n, 6, S, S) → (n, 3, S, S)."
        )
    return model


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no reason given")
