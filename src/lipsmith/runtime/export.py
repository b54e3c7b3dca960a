"""PyTorch generator → what the OpenVINO runtime reads, refused unless both give the same faces."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lipsmith.conditioning import lower_half, mask_lower_half
from lipsmith.engine import compile_on_cpu, import_openvino, without_telemetry
from lipsmith.errors import OutputError, RuntimeUnavailableError, UsageError, WeightsError
from lipsmith.runtime.base import OPENVINO_NAME, FloatArray, check_inputs, split_rows
from lipsmith.runtime.openvino import read_generator
from lipsmith.timebase import NUM_MELS, WINDOW_COLUMNS

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

# Most that a pixel (0 to 1) may differ from PyTorch's, anywhere in the face. The first is rounding in another
# order of addition, the second weights rounded to eleven bits; a step of an 8-bit picture is 4e-3.
MAX_DIFFERENCE = {"fp32": 1e-4, "fp16": 1e-2}
# Least peak signal-to-noise ratio in dB of the lower half, the only part that is pasted: over all judged rows, and
# of the worst of them, lest an average hide one ruined face. 38 dB is an error of 3 steps of 255 root mean square,
# below the noise of sensor and encoder; 32 dB is 6 steps.
MIN_PSNR_INT8 = 38.0
MIN_ROW_PSNR_INT8 = 32.0

MIN_CALIBRATION_ROWS = 16
# One row in so many is kept from calibration, to judge on inputs that the ranges were not fitted to.
JUDGED_EVERY = 4


def export_generator(
    model: nn.Module,
    folder: Path,
    *,
    precision: Precision = "fp16",
    calibration: Iterable[tuple[FloatArray, FloatArray]] | None = None,
) -> Path:
    """Write `model` into `folder` as generator.xml and generator.bin, and check the written files against it.

    Args:
        model: a generator with `face_size`, `forward(mel, faces)`; neither changed nor moved.
        folder: made if absent. The files appear when they were checked; on an error, what was there stays.
        precision: "fp32"; "fp16" stores weights in half the bytes and computes in float32; "int8" quantises
            weights and activations for processors with 8-bit instructions, by NNCF (extra `train`).
        calibration: batches of (mels (n, 1, 80, 16), faces (n, 6, S, S)) float32 from real clips, in all at
            least `MIN_CALIBRATION_ROWS` rows: needed for "int8", a further check otherwise. A few hundred
            rows of many people serve best; all are held in memory.

    Returns:
        The path of generator.xml.

    Raises:
        WeightsError: the outputs differ from PyTorch's by more than the precision allows; it says how much.
        UsageError: an unknown precision; "int8" with too few rows.
        RuntimeUnavailableError: OpenVINO, or for "int8" NNCF, is not installed.
        OutputError: the folder cannot be written.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision “{precision}”. There are: {', '.join(PRECISIONS)}.")
    face_size = int(model.face_size)  # type: ignore[arg-type]
    network = copy.deepcopy(model).eval().float().cpu()
    mels, faces = _gather(calibration, face_size)
    if precision == "int8" and len(mels) < MIN_CALIBRATION_ROWS:
        raise UsageError(
            f"int8 needs at least {MIN_CALIBRATION_ROWS} calibration samples of real faces and speech; "
            f"there are {len(mels)}."
        )

    graph = _convert(network, face_size)
    if precision == "int8":
        fitted = np.arange(len(mels)) % JUDGED_EVERY != 0
        graph = _quantise(graph, mels[fitted], faces[fitted])
        mels, faces = mels[~fitted], faces[~fitted]
    else:
        # Noise reaches more of a network than faces do.
        noise_mels, noise_faces = _noise(face_size)
        mels, faces = np.concatenate((mels, noise_mels)), np.concatenate((faces, noise_faces))

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
            path = Path(scratch) / OPENVINO_NAME
            try:
                import_openvino().save_model(graph, path, compress_to_fp16=precision != "fp32")
            except RuntimeError as error:  # OpenVINO's only word for a disk that takes no more
                raise OutputError(
                    f"The generator cannot be written to {folder} ({error}). Is the disk full?"
                ) from error
            _check_agreement(network, path, precision, mels, faces)
            # The picture of the graph goes last: it is what the runtime looks for.
            for file in (path.with_suffix(".bin"), path):
                file.replace(folder / file.name)
    except OSError as error:
        raise OutputError(
            f"The generator cannot be written to {folder}: {error.strerror or error}"
        ) from error
    return folder / OPENVINO_NAME


def _gather(
    calibration: Iterable[tuple[FloatArray, FloatArray]] | None, face_size: int
) -> tuple[FloatArray, FloatArray]:
    """All rows of `calibration` in two arrays, which have no rows where there is none."""
    mels = [np.empty((0, 1, NUM_MELS, WINDOW_COLUMNS), np.float32)]
    faces = [np.empty((0, 6, face_size, face_size), np.float32)]
    for some_mels, some_faces in calibration or ():
        check_inputs(some_mels, some_faces, face_size)
        mels.append(some_mels)
        faces.append(some_faces)
    return np.concatenate(mels), np.concatenate(faces)


def _noise(face_size: int) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (2, 1, NUM_MELS, WINDOW_COLUMNS)).astype(np.float32)
    faces = random.uniform(0, 1, (2, 6, face_size, face_size)).astype(np.float32)
    faces[:, :3] = mask_lower_half(faces[:, :3])
    return mels, faces


def _convert(network: nn.Module, face_size: int) -> Any:
    """The `openvino.Model` of `network`, its batch left open."""
    ov = import_openvino()
    shapes = ([-1, 1, NUM_MELS, WINDOW_COLUMNS], [-1, 6, face_size, face_size])
    example = tuple(torch.zeros([2, *shape[1:]]) for shape in shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own internals
        graph = ov.convert_model(
            network, example_input=example, input=[ov.PartialShape(shape) for shape in shapes]
        )
    for port, name in zip((*graph.inputs, *graph.outputs), ("mels", "faces", "generated"), strict=True):
        port.get_tensor().set_names({name})
    return graph


def _quantise(graph: Any, mels: FloatArray, faces: FloatArray) -> Any:
    """`graph` with 8-bit convolutions, ranges fitted to the given rows."""
    with _silence():
        try:
            with without_telemetry():
                import nncf
                from nncf.quantization.range_estimator import RangeEstimatorParametersSet
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"int8 needs NNCF, which cannot be imported ({error}): pip install 'lipsmith[train]'"
            ) from error
        nncf.set_log_level(logging.ERROR)
        rows = [[mels[index : index + 1], faces[index : index + 1]] for index in range(len(mels))]
        return nncf.quantize(
            graph,
            nncf.Dataset(rows),
            subset_size=len(rows),
            # Symmetric ranges: nearly all activations come from a ReLU, so that offsets gain nothing.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Without VNNI instructions (most processors before 2019) sums of two 8-bit products overflow
                # 16 bits; weights of seven bits cannot. The files must be right on every machine.
                overflow_fix=nncf.OverflowFix.ENABLE,
                # True extremes: the usual mean over samples clips what is rare, and a rare bright tooth shows.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Inside, Python prints nothing: NNCF draws progress bars on stdout, which is for data."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _check_agreement(
    network: nn.Module, path: Path, precision: Precision, mels: FloatArray, faces: FloatArray
) -> None:
    """Compare the files at `path` with `network`.

    Raises:
        WeightsError: they differ by more than `precision` allows.
    """
    expected = _run_torch(network, mels, faces)
    request = compile_on_cpu(read_generator(path)).create_infer_request()
    generated = np.concatenate(
        [request.infer([mels[rows], faces[rows]])[0] for rows in split_rows(len(mels), 8)]
    )
    if not np.isfinite(expected).all():
        raise WeightsError("The generator gives values that are not numbers: its weights are damaged.")
    if precision == "int8":
        generated, expected = lower_half(generated), lower_half(expected)
        ratio = psnr(generated, expected)
        worst = min(psnr(*pair) for pair in zip(generated, expected, strict=True))
        if not (ratio >= MIN_PSNR_INT8 and worst >= MIN_ROW_PSNR_INT8):
            raise WeightsError(
                f"The int8 generator was not written: on {len(mels)} samples that it was not calibrated with, "
                f"its lower faces agree with PyTorch's to {ratio:.1f} dB ({worst:.1f} dB in the worst), and "
                f"{MIN_PSNR_INT8:g} dB ({MIN_ROW_PSNR_INT8:g} dB) is the least. "
                "Give more varied calibration samples, or use fp16."
            )
        return
    difference = float(np.abs(generated - expected).max())
    if not difference <= MAX_DIFFERENCE[precision]:
        raise WeightsError(
            f"The {precision} generator was not written: on {len(mels)} samples its faces differ from "
            f"PyTorch's by up to {difference:.2g}, and {MAX_DIFFERENCE[precision]:g} is the most."
            + (" Use fp32." if precision == "fp16" else "")
        )


@torch.inference_mode()
def _run_torch(network: nn.Module, mels: FloatArray, faces: FloatArray) -> FloatArray:
    parts = [
        network(torch.tensor(mels[rows]), torch.tensor(faces[rows])).numpy()
        for rows in split_rows(len(mels), 8)
    ]
    return np.concatenate(parts)


def psnr(generated: FloatArray, expected: FloatArray) -> float:
    """Peak signal-to-noise ratio in dB of pixels from 0 to 1; infinite for equal ones."""
    error = float(np.mean(np.square(generated.astype(np.float64) - expected)))
    return float("inf") if error == 0 else -10 * float(np.log10(error))
