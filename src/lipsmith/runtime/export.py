"""PyTorch generator → what the OpenVINO runtime reads, refused unless both give the same faces."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lipsmith.conditioning import face_channels, lower_half, mask_lower_half
from lipsmith.engine import compile_on_cpu, import_openvino, without_telemetry
from lipsmith.errors import OutputError, RuntimeUnavailableError, UsageError, WeightsError
from lipsmith.models.articulation import articulate as articulate_torch
from lipsmith.models.blocks import ConvBlock
from lipsmith.models.generators import paint_lower_part
from lipsmith.runtime.articulation import ARTICULATION_LAYERS, articulate, make_articulate
from lipsmith.runtime.base import OPENVINO_NAME, FloatArray, check_inputs, split_rows
from lipsmith.runtime.openvino import read_generator
from lipsmith.timebase import NUM_MELS, WINDOW_COLUMNS

BoolArray = NDArray[np.bool_]
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

# Most that a pixel (0 to 1) may differ from PyTorch's, anywhere in the face. The first is rounding in another
# order of addition, the second weights rounded to eleven bits, where noise is moved about and its edges with it; a
# step of an 8-bit picture is 4e-3.
MAX_DIFFERENCE = {"fp32": 1e-4, "fp16": 2e-2}
# Least peak signal-to-noise ratio in dB of the lower half, the only part that is pasted: over all judged rows, and
# of the worst of them, lest an average hide one ruined face. 38 dB is an error of 3 steps of 255 root mean square,
# below the noise of sensor and encoder; 32 dB is 6 steps.
MIN_PSNR_INT8 = 38.0
MIN_ROW_PSNR_INT8 = 32.0

MIN_CALIBRATION_ROWS = 16
# One batch in so many (one row, where batches are few) is kept from calibration, to judge on inputs that the ranges
# were not fitted to.
JUDGED_EVERY = 4


# Where the 8-bit range of an activation ends, tried until one does well: at its true extremes; at the median of the
# batches' largest values; where one value in ten thousand lies beyond. In some trained generators a few pixels, on
# their way to a saturated colour, are a hundred times as bright inside as all others, and a range that holds them
# leaves too few steps for the rest; others need every extreme.
Range = Literal["extremes", "median", "quantile"]
RANGES: tuple[Range, ...] = ("extremes", "median", "quantile")
WELL_PSNR_INT8 = 45.0
# Convolutions from each end of the network that stay in floating point where all in 8 bits is too coarse: the heads,
# which have few channels and all the colours.
NUM_KEPT = 2


@dataclass(frozen=True)
class Exported:
    """What `export_generator` wrote, and how well it agrees with PyTorch.

    Attributes:
        path: generator.xml.
        num_rows: Samples on which both were compared; for int8 none that the ranges were fitted to.
        largest_difference: Of any pixel (0 to 1), anywhere in the face.
        psnr_lower_db: Peak signal-to-noise ratio of the lower faces, all samples together.
        worst_psnr_lower_db: Of the worst sample.
        kept_in_float: Names of the convolutions of an int8 network that compute in floating point.
    """

    path: Path
    num_rows: int
    largest_difference: float
    psnr_lower_db: float
    worst_psnr_lower_db: float
    kept_in_float: tuple[str, ...] = ()


def export_generator(
    model: nn.Module,
    folder: Path,
    *,
    precision: Precision = "fp16",
    calibration: Iterable[tuple[FloatArray, FloatArray]] | None = None,
    articulation: float = 1.0,
) -> Exported:
    """Write `model` into `folder` as generator.xml and generator.bin, and check the written files against it.

    Args:
        model: a generator (`lipsmith.models.generators.Generator`); neither changed nor moved.
        folder: made if absent. The files appear when they were checked; on an error, what was there stays.
        precision: "fp32"; "fp16" stores weights in half the bytes and computes in float32; "int8" quantises
            weights and activations for processors with 8-bit instructions, by NNCF (extra `train`); where all
            in 8 bits is too coarse, the head stays in floating point.
        calibration: batches of (mels (n, 1, 80, 16), faces (n, 6 or 9, S, S)) float32 from real clips, in all at
            least `MIN_CALIBRATION_ROWS` rows: needed for "int8", a further check otherwise. A few hundred
            rows of many people serve best; all are held in memory.
        articulation: what it is going to be run with (`lipsmith.runtime.resolve_runtime`): the ranges of "int8" hold
            it, and the agreement is of faces that speak so. The files themselves are at 1.

    Returns:
        What was written, and the agreement.

    Raises:
        WeightsError: the outputs differ from PyTorch's by more than the precision allows; it says how much.
        UsageError: an unknown precision; "int8" with too few rows.
        RuntimeUnavailableError: OpenVINO, or for "int8" NNCF, is not installed.
        OutputError: the folder cannot be written.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision “{precision}”. There are: {', '.join(PRECISIONS)}.")
    face_shape = _face_shape(model)
    network = copy.deepcopy(model).eval().float().cpu()
    paint_lower_part(network)
    mels, faces, judged = _gather(calibration, face_shape)
    if precision == "int8" and len(mels) < MIN_CALIBRATION_ROWS:
        raise UsageError(
            f"int8 needs at least {MIN_CALIBRATION_ROWS} calibration samples of real faces and speech; "
            f"there are {len(mels)}."
        )

    graph = _convert(network if precision == "int8" else _without_additions(network), face_shape)
    make_articulate(graph)
    if articulation != 1:
        articulate(graph, articulation)
        articulate_torch(network, articulation)
    fitted = mels[~judged], faces[~judged]
    if precision == "int8":
        mels, faces = mels[judged], faces[judged]
    else:
        # Noise reaches more of a network than faces do.
        noise_mels, noise_faces = _noise(face_shape)
        mels, faces = np.concatenate((mels, noise_mels)), np.concatenate((faces, noise_faces))
    expected = _run_torch(network, mels, faces)
    if not np.isfinite(expected).all():
        raise WeightsError("The generator gives values that are not numbers: its weights are damaged.")

    judged_by = _Samples(mels, faces, expected, articulation)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
            if precision == "int8":
                exported = _best_of_int8(graph, fitted, judged_by, Path(scratch))
            else:
                exported = _write(graph, Path(scratch) / precision, precision, judged_by)
            if objection := _objection(exported, precision):
                raise WeightsError(f"The {precision} generator was not written: {objection}")
            # The picture of the graph goes last: it is what the runtime looks for.
            for file in (exported.path.with_suffix(".bin"), exported.path):
                file.replace(folder / file.name)
    except OSError as error:
        raise OutputError(
            f"The generator cannot be written to {folder}: {error.strerror or error}"
        ) from error
    return replace(exported, path=folder / OPENVINO_NAME)


@dataclass(frozen=True)
class _Samples:
    """Inputs, and what PyTorch makes of them."""

    mels: FloatArray
    faces: FloatArray
    expected: FloatArray
    articulation: float


def _best_of_int8(
    graph: Any, fitted: tuple[FloatArray, FloatArray], judged: _Samples, scratch: Path
) -> Exported:
    """The 8-bit network that agrees best; its head in floating point if it is not good enough without."""
    tried: dict[Range, Exported] = {}
    for name in RANGES:
        quantised = _quantise(graph, *fitted, name, [])
        tried[name] = _write(quantised, scratch / name, "int8", judged)
        if tried[name].psnr_lower_db >= WELL_PSNR_INT8:
            break
    # The best on average may ruin a face.
    best = max(tried, key=lambda name: (_objection(tried[name], "int8") is None, tried[name].psnr_lower_db))
    if _objection(tried[best], "int8") is None:
        return tried[best]
    kept = _names(_heads(graph, NUM_KEPT))
    mixed = _quantise(graph, *fitted, best, kept)
    return replace(_write(mixed, scratch / "mixed", "int8", judged), kept_in_float=tuple(kept))


def _write(graph: Any, folder: Path, precision: Precision, samples: _Samples) -> Exported:
    """Write `graph` at articulation 1 into a new `folder`, and compare what was written with PyTorch."""
    folder.mkdir()
    if samples.articulation != 1:
        articulate(graph, 1.0)
    path = folder / OPENVINO_NAME
    try:
        import_openvino().save_model(graph, path, compress_to_fp16=precision != "fp32")
    except RuntimeError as error:  # OpenVINO's only word for a disk that takes no more
        raise OutputError(
            f"The generator cannot be written to {folder.parent.parent} ({error}). Is the disk full?"
        ) from error
    written = read_generator(path)
    if samples.articulation != 1:
        articulate(written, samples.articulation)
    request = compile_on_cpu(written).create_infer_request()
    generated = np.concatenate(
        [
            request.infer([samples.mels[rows], samples.faces[rows]])[0]
            for rows in split_rows(len(samples.mels), 8)
        ]
    )
    lower, wanted = lower_half(generated), lower_half(samples.expected)
    return Exported(
        path=path,
        num_rows=len(samples.mels),
        largest_difference=float(np.abs(generated - samples.expected).max()),
        psnr_lower_db=psnr(lower, wanted),
        worst_psnr_lower_db=min(psnr(*pair) for pair in zip(lower, wanted, strict=True)),
    )


def _gather(
    calibration: Iterable[tuple[FloatArray, FloatArray]] | None, face_shape: tuple[int, int, int]
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """All rows of `calibration`, none where there is none, in two arrays; and which of them are to judge by."""
    mels = [np.empty((0, 1, NUM_MELS, WINDOW_COLUMNS), np.float32)]
    faces = [np.empty((0, *face_shape), np.float32)]
    for some_mels, some_faces in calibration or ():
        check_inputs(some_mels, some_faces, face_shape[1], face_shape[0] // 3 - 1)
        mels.append(some_mels)
        faces.append(some_faces)
    sizes = [len(batch) for batch in mels[1:]]
    # Neighbouring frames are nearly equal: whole batches, which are of one clip, tell more.
    numbers = np.repeat(np.arange(len(sizes)), sizes) if len(sizes) >= JUDGED_EVERY else np.arange(sum(sizes))
    return np.concatenate(mels), np.concatenate(faces), numbers % JUDGED_EVERY == 0


def _face_shape(model: nn.Module) -> tuple[int, int, int]:
    """Of what it sees: the masked face and its references, a channel for each colour; rows; columns."""
    size, count = int(model.face_size), int(model.num_references)  # type: ignore[arg-type]
    return face_channels(count), size, size


def _noise(face_shape: tuple[int, int, int]) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (2, 1, NUM_MELS, WINDOW_COLUMNS)).astype(np.float32)
    faces = random.uniform(0, 1, (2, *face_shape)).astype(np.float32)
    faces[:, :3] = mask_lower_half(faces[:, :3])
    return mels, faces


def _without_additions(network: nn.Module) -> nn.Module:
    """A copy of `network` whose residual blocks are single convolutions: a 1 in the middle of a kernel adds the input.

    OpenVINO cannot add in place what the same convolution still reads, and would go through memory once more. Not for
    8 bits: beside that 1 the kernels' own numbers would have too few steps.
    """
    folded = copy.deepcopy(network)
    for block in list(folded.modules()):
        if not isinstance(block, ConvBlock) or not block.residual:
            continue
        convolution, norm = block.conv_block
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        fused = fuse_conv_bn_eval(convolution, norm)
        rows, columns = (side // 2 for side in fused.kernel_size)
        channels = torch.arange(fused.out_channels)
        with torch.no_grad():
            fused.weight[channels, channels, rows, columns] += 1
        block.conv_block = nn.Sequential(fused)
        block.residual = False
    return folded


def _convert(network: nn.Module, face_shape: tuple[int, int, int]) -> Any:
    """The `openvino.Model` of `network`, its batch left open."""
    ov = import_openvino()
    shapes = ([-1, 1, NUM_MELS, WINDOW_COLUMNS], [-1, *face_shape])
    example = tuple(torch.zeros([2, *shape[1:]]) for shape in shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own internals
        graph = ov.convert_model(
            network, example_input=example, input=[ov.PartialShape(shape) for shape in shapes]
        )
    for port, name in zip((*graph.inputs, *graph.outputs), ("mels", "faces", "generated"), strict=True):
        port.get_tensor().set_names({name})
    return graph


def _quantise(graph: Any, mels: FloatArray, faces: FloatArray, ends: Range, kept: list[str]) -> Any:
    """A copy of `graph` with 8-bit convolutions but for those `kept`, ranges fitted to the given rows."""
    names = {layer.get_friendly_name() for layer in graph.get_ops()}
    # Their values are not a convolution's, and their range is that of what follows.
    kept = [*kept, *(name for name in ARTICULATION_LAYERS if name in names)]
    with _silence():
        try:
            with without_telemetry():
                import nncf
                from nncf.quantization.range_estimator import (
                    AggregatorType,
                    RangeEstimatorParameters,
                    StatisticsCollectorParameters,
                    StatisticsType,
                )
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"int8 needs NNCF, which cannot be imported ({error}): pip install 'lipsmith[train]'"
            ) from error
        nncf.set_log_level(logging.ERROR)
        least = StatisticsCollectorParameters(
            statistics_type=StatisticsType.MIN, aggregator_type=AggregatorType.MIN
        )
        most = {
            "extremes": (StatisticsType.MAX, AggregatorType.MAX),
            "median": (StatisticsType.MAX, AggregatorType.MEDIAN),
            "quantile": (StatisticsType.QUANTILE, AggregatorType.MEAN),
        }
        statistics, aggregator = most[ends]
        largest = StatisticsCollectorParameters(
            statistics_type=statistics, aggregator_type=aggregator, quantile_outlier_prob=1e-4
        )
        batches = [[mels[rows], faces[rows]] for rows in split_rows(len(mels), 4)]
        return nncf.quantize(
            graph.clone(),
            nncf.Dataset(batches),
            subset_size=len(batches),
            # Symmetric ranges: nearly all activations come from a ReLU, so that offsets gain nothing.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            # What follows the last convolution is colours, and costs next to nothing.
            ignored_scope=nncf.IgnoredScope(names=kept + _names(_colours(graph)), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Without VNNI instructions (most processors before 2019) sums of two 8-bit products overflow
                # 16 bits; weights of seven bits cannot. The files must be right on every machine.
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=RangeEstimatorParameters(min=least, max=largest),
            ),
        )


def _names(ops: Iterable[Any]) -> list[str]:
    return sorted(op.get_friendly_name() for op in ops)


def _is_convolution(op: Any) -> bool:
    return "Convolution" in op.get_type_name()


def _heads(graph: Any, count: int) -> set[Any]:
    """The convolutions that no other follows, and those before them, `count` in a row."""
    last = {op for op in graph.get_ordered_ops() if _is_convolution(op)}
    for op in list(last):
        last -= _reached(op, _before)
    heads = set(last)
    for _ in range(count - 1):
        last = {op for head in last for op in _reached(head, _before, not_beyond=_is_convolution)}
        last = {op for op in last if _is_convolution(op)}
        heads |= last
    return heads


def _colours(graph: Any) -> set[Any]:
    """The operations that need what the last convolutions give, and that none of them needs."""
    heads = _heads(graph, 1)
    behind = {op for head in heads for op in _reached(head, _after)}
    return {op for op in behind if op.get_type_name() != "Result"}


def _reached(
    op: Any, step: Callable[[Any], list[Any]], not_beyond: Callable[[Any], bool] = lambda op: False
) -> set[Any]:
    """What `step` leads to from `op`, again and again; `op` itself is not among it."""
    reached: set[Any] = set()
    waiting = step(op)
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            if not not_beyond(one):
                waiting += step(one)
    return reached


def _before(op: Any) -> list[Any]:
    return [source.get_source_output().get_node() for source in op.inputs()]


def _after(op: Any) -> list[Any]:
    return [target.get_node() for output in op.outputs() for target in output.get_target_inputs()]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Inside, Python prints nothing: NNCF draws progress bars on stdout, which is for data."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _objection(exported: Exported, precision: Precision) -> str | None:
    """What is wrong with the agreement, for a person to read; None if it is good enough."""
    if precision == "int8":
        if exported.psnr_lower_db >= MIN_PSNR_INT8 and exported.worst_psnr_lower_db >= MIN_ROW_PSNR_INT8:
            return None
        return (
            f"on {exported.num_rows} samples that it was not calibrated with, its lower faces agree with PyTorch's "
            f"to {exported.psnr_lower_db:.1f} dB ({exported.worst_psnr_lower_db:.1f} dB in the worst), and "
            f"{MIN_PSNR_INT8:g} dB ({MIN_ROW_PSNR_INT8:g} dB) is the least. "
            "Give more varied calibration samples, or use fp16."
        )
    if exported.largest_difference <= MAX_DIFFERENCE[precision]:
        return None
    return (
        f"on {exported.num_rows} samples its faces differ from PyTorch's by up to "
        f"{exported.largest_difference:.2g}, and {MAX_DIFFERENCE[precision]:g} is the most."
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
