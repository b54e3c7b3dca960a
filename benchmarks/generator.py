"""The generator alone: faces a second, and how much of what this machine can compute that is.

    python benchmarks/generator.py
    python benchmarks/generator.py --widths 1 --variants openvino:int8 torch --batches 1 4 8 --streams 1 2
    python benchmarks/generator.py --models default weights/published-int8

Each row is a process of its own. In it, two measurements take turns, so that what else the machine does meets both: the
generator on many faces, and a chain of wide convolutions of the same precision through the same runtime, the most
arithmetic that can be asked of it. The FLOP of a face (a multiply-add is two) are counted by PyTorch. Speed does not
depend on what weights have learned: without --models the networks are untrained. Needs the extra `train`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measurement import describe_machine, describe_versions, in_fresh_process, parser, publish, say, spread

VARIANTS = ("openvino:fp32", "openvino:fp16", "openvino:int8", "torch")
CALIBRATION_ROWS = 32
# The chain by which the peak is measured: channels, side in pixels, pictures, layers.
PEAK_CHANNELS, PEAK_SIDE, PEAK_BATCH, PEAK_LAYERS = 256, 24, 4, 6
PEAK_SECONDS = 0.25


def write_folder(folder: Path, width: float, face_size: int, precision: str) -> None:
    """A weights folder of an untrained generator, calibrated with noise for int8."""
    import numpy as np
    import torch

    from lipsmith.models.wav2lip import Wav2Lip
    from lipsmith.weights.card import WeightCard
    from lipsmith.weights.checkpoint import write_weights

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    calibration = [
        (
            random.uniform(-4, 4, (CALIBRATION_ROWS, 1, 80, 16)).astype(np.float32),
            random.uniform(0, 1, (CALIBRATION_ROWS, 6, face_size, face_size)).astype(np.float32),
        )
    ]
    card = WeightCard(
        name=folder.name, kind="generator", architecture="wav2lip", width=width, face_size=face_size
    )
    write_weights(Wav2Lip(width, face_size), card, folder, precision=precision, calibration=calibration)


def count_flop(folder: Path) -> float:
    """FLOP of one face by the generator of a weights folder; convolutions only, which are nearly all."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lipsmith.conditioning import face_channels
    from lipsmith.models.generators import paint_lower_part
    from lipsmith.weights.card import CARD_NAME, WeightCard
    from lipsmith.weights.checkpoint import build

    card = WeightCard.read(folder / CARD_NAME)
    with torch.device("meta"):
        network = build(card.architecture, card.width, card.face_size).eval()
        paint_lower_part(network)  # as runtimes do
        channels = face_channels(int(network.num_references))
        mel, faces = torch.empty(1, 1, 80, 16), torch.empty(1, channels, card.face_size, card.face_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(mel, faces)
    return float(counter.get_total_flops())


def precision_of(folder: Path) -> str:
    """`int8` for an OpenVINO file with quantised layers, else `fp32`: what its arithmetic is in."""
    return "int8" if 'type="FakeQuantize"' in (folder / "generator.xml").read_text() else "fp32"


def peak_of_openvino(precision: str, threads: int | None) -> Callable[[], float]:
    """A function that runs the chain of convolutions for a moment, and returns FLOP a second."""
    import numpy as np

    from lipsmith.engine import compile_on_cpu, import_openvino
    from lipsmith.runtime.tuning import available_threads

    ov = import_openvino()
    ops = ov.opset13
    shape = (PEAK_BATCH, PEAK_CHANNELS, PEAK_SIDE, PEAK_SIDE)
    random = np.random.default_rng(0)
    x = source = ops.parameter(shape, np.float32)
    for _ in range(PEAK_LAYERS):
        kernel: Any = random.integers(-63, 64, (PEAK_CHANNELS, PEAK_CHANNELS, 3, 3)).astype(np.int8)
        if precision == "int8":
            low, high = np.float32(0), np.float32(255)
            x = ops.fake_quantize(x, low, high, low, high, 256)
            scale = np.full((PEAK_CHANNELS, 1, 1, 1), 1e-4, np.float32)
            kernel = ops.multiply(ops.convert(ops.constant(kernel), "f32"), ops.constant(scale))
        else:
            kernel = ops.constant(kernel.astype(np.float32) * np.float32(1e-4))
        x = ops.relu(ops.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
    streams = min(available_threads(threads), 4)
    compiled = compile_on_cpu(ov.Model([x], [source]), threads=threads, options={"NUM_STREAMS": streams})
    requests = [compiled.create_infer_request() for _ in range(streams)]
    picture = random.uniform(0, 255, shape).astype(np.float32)
    flop = 2.0 * 9 * PEAK_LAYERS * PEAK_CHANNELS**2 * PEAK_BATCH * PEAK_SIDE**2

    def run() -> float:
        done, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < PEAK_SECONDS or not done:
            for request in requests:
                request.start_async([picture], share_inputs=True)
            for request in requests:
                request.wait()
            done += streams
        return done * flop / seconds

    return run


def peak_of_torch(device: str, half: bool) -> Callable[[], float]:
    """As `peak_of_openvino`, on a device of PyTorch."""
    import torch

    dtype = torch.float16 if half else torch.float32
    chain = torch.nn.Sequential(
        *(torch.nn.Conv2d(PEAK_CHANNELS, PEAK_CHANNELS, 3, padding=1, bias=False) for _ in range(PEAK_LAYERS))
    )
    batch = PEAK_BATCH if device == "cpu" else 64
    chain.to(device, dtype).to(memory_format=torch.channels_last)
    picture = torch.rand(batch, PEAK_CHANNELS, PEAK_SIDE, PEAK_SIDE, device=device, dtype=dtype)
    picture = picture.to(memory_format=torch.channels_last)
    flop = 2.0 * 9 * PEAK_LAYERS * PEAK_CHANNELS**2 * batch * PEAK_SIDE**2

    def run() -> float:
        done, start = 0, time.perf_counter()
        with torch.inference_mode():
            while (seconds := time.perf_counter() - start) < PEAK_SECONDS or not done:
                chain(picture).amax().item()  # waits for the device
                done += 1
        return done * flop / seconds

    return run


def time_runtime(
    folder: Path, name: str, flop: float, division: tuple[int | None, int | None], chosen: argparse.Namespace
) -> dict[str, Any]:
    """Median and spread of faces a second and of the peak, measured by turns."""
    # What is measured must not depend on what was measured before.
    os.environ["LIPSMITH_TUNING"] = "off"
    import numpy as np

    from lipsmith.conditioning import face_channels
    from lipsmith.runtime import resolve_runtime
    from lipsmith.runtime.tuning import Division, available_threads, candidates

    batch, streams = division
    start = time.perf_counter()
    if name == "openvino":
        from lipsmith.runtime.openvino import OpenVinoGenerator

        first = candidates(available_threads(chosen.threads))[0]
        used = Division(batch or first.batch, streams or first.streams)
        runtime: Any = OpenVinoGenerator(folder, device=chosen.device, threads=chosen.threads, division=used)
        division_words = f"{used.batch} × {used.streams}"
    else:
        import lipsmith.runtime.torch as torch_runtime

        if batch is not None:
            torch_runtime.BATCH_CPU = torch_runtime.BATCH_GPU = batch
        runtime = resolve_runtime(name, folder, device=chosen.device, threads=chosen.threads)
        division_words = str(batch or "default")
    loaded = time.perf_counter() - start
    if name == "openvino":
        peak = peak_of_openvino(precision_of(folder), chosen.threads)
    else:
        peak = peak_of_torch(runtime.device, half=runtime.device.startswith("cuda"))

    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (chosen.faces, 1, 80, 16)).astype(np.float32)
    channels = face_channels(runtime.num_references)
    faces = random.random((chosen.faces, channels, runtime.face_size, runtime.face_size), np.float32)
    runs = []
    for index in range(-chosen.warmups, chosen.repeats):
        most = peak()
        start, busy = time.perf_counter(), time.process_time()
        # In the portions in which the pipeline brings them.
        for first_row in range(0, chosen.faces, chosen.call):
            rows = slice(first_row, first_row + chosen.call)
            runtime.generate(mels[rows], faces[rows])
        rate = chosen.faces / (time.perf_counter() - start)
        # What one core would make alone: hardly changed by what else the machine is busy with.
        by_core = chosen.faces / (time.process_time() - busy)
        if index >= 0:
            runs.append(
                {
                    "faces_per_second": rate,
                    "faces_per_processor_second": by_core,
                    "gflops": rate * flop / 1e9,
                    "peak_gflops": most / 1e9,
                }
            )
    median = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
    return {
        "division": division_words,
        "median": {figure: round(value, 2) for figure, value in median.items()},
        "spread": spread(runs),
        "share_of_peak": round(statistics.median(run["gflops"] / run["peak_gflops"] for run in runs), 3),
        "load_seconds": round(loaded, 3),
    }


def measure(
    folder: Path, label: dict[str, Any], runtime: str, chosen: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each division that was asked for."""
    flop, _ = in_fresh_process(count_flop, folder)
    file = folder / ("generator.safetensors" if runtime == "torch" else "generator.bin")
    rows = []
    for batch in chosen.batches:
        for streams in chosen.streams if runtime == "openvino" else [None]:
            figures, peak = in_fresh_process(time_runtime, folder, runtime, flop, (batch, streams), chosen)
            row = {
                **label,
                "runtime": runtime,
                "gflop_per_face": round(flop / 1e9, 3),
                **figures,
                "file_mb": round(file.stat().st_size / 1e6, 2),
                "peak_memory_mib": round(peak, 1),
            }
            rows.append(row)
            median, (least, most) = figures["median"], figures["spread"]["faces_per_second"]
            say(
                f"{' '.join(map(str, label.values())):24} {runtime} {figures['division']:8} "
                f"{median['faces_per_second']:7.1f} faces/s ({least:.1f} to {most:.1f}; "
                f"{median['faces_per_processor_second']:.1f} a core), "
                f"{median['gflops']:.0f} of {median['peak_gflops']:.0f} GFLOP/s "
                f"({figures['share_of_peak']:.0%} of the peak), load {figures['load_seconds']:.2f} s, {peak:.0f} MiB"
            )
    return rows


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.25], help="of the networks")
    arguments.add_argument("--face-size", type=int, default=96, help="side in pixels")
    arguments.add_argument("--variants", nargs="+", default=list(VARIANTS), help="runtime[:precision]")
    arguments.add_argument(
        "--models", nargs="+", help="weights, by name or folder, in place of untrained ones"
    )
    arguments.add_argument("--batches", type=int, nargs="+", default=[None], help="faces that go together")
    arguments.add_argument(
        "--streams", type=int, nargs="+", default=[None], help="batches at once (openvino)"
    )
    arguments.add_argument("--device", default="auto", help="device of the runtimes")
    arguments.add_argument("--threads", type=int, help="most threads")
    arguments.add_argument("--faces", type=int, default=64, help="faces in a measurement")
    arguments.add_argument(
        "--call", type=int, default=8, help="faces that a call brings, as the pipeline does"
    )
    arguments.add_argument("--warmups", type=int, default=1, help="measurements that do not count")
    arguments.add_argument("--repeats", type=int, default=5, help="measurements; the median is reported")
    chosen = arguments.parse_args()

    machine = describe_machine()
    rows = []
    if chosen.models:
        from lipsmith.weights.store import resolve

        runtimes = dict.fromkeys(variant.partition(":")[0] for variant in chosen.variants)
        for model in chosen.models:
            card, folder = resolve(model)
            for runtime in runtimes:
                label = {
                    "model": card.name,
                    "precision": precision_of(folder) if runtime == "openvino" else "fp32",
                }
                rows += measure(folder, label, runtime, chosen)
    else:
        for width in chosen.widths:
            for variant in chosen.variants:
                runtime, _, precision = variant.partition(":")
                with tempfile.TemporaryDirectory() as scratch:
                    folder = Path(scratch) / "generator"
                    in_fresh_process(write_folder, folder, width, chosen.face_size, precision or "fp32")
                    rows += measure(
                        folder, {"width": width, "precision": precision or "fp32"}, runtime, chosen
                    )
    settings = ("face_size", "device", "threads", "faces", "call", "warmups", "repeats")
    publish(
        {
            "benchmark": "generator",
            "machine": machine,
            "versions": describe_versions(),
            "settings": {name: getattr(chosen, name) for name in settings},
            "rows": rows,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
