"""The generator alone: faces a second by runtime, precision and batch, in a process each.

    python benchmarks/generator.py
    python benchmarks/generator.py --widths 1 0.25 --variants openvino:int8 torch --batches 1 2 4 8 16

Speed does not depend on what weights have learned, so the networks are untrained. --batches overrides the number of
faces that the runtimes compute at once. Needs the extra `train`.
"""

import statistics
import tempfile
import time
from pathlib import Path

from measurement import describe_machine, describe_versions, in_fresh_process, parser, publish, say

VARIANTS = ("openvino:fp32", "openvino:fp16", "openvino:int8", "torch")
CALIBRATION_ROWS = 32


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


def time_runtime(
    folder: Path, name: str, device: str, threads: int | None, batch: int | None, num_faces: int, repeats: int
) -> dict[str, float]:
    """Seconds to load, and the median of faces a second over `repeats`."""
    import numpy as np

    from lipsmith.runtime import resolve_runtime

    if batch is not None:
        import importlib

        module = importlib.import_module(f"lipsmith.runtime.{name}")
        for constant in ("BATCH", "BATCH_CPU", "BATCH_GPU"):
            if hasattr(module, constant):
                setattr(module, constant, batch)
    start = time.perf_counter()
    runtime = resolve_runtime(name, folder, device=device, threads=threads)
    loaded = time.perf_counter() - start
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (num_faces, 1, 80, 16)).astype(np.float32)
    faces = random.random((num_faces, 6, runtime.face_size, runtime.face_size), np.float32)
    runtime.generate(mels[:16], faces[:16])
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        runtime.generate(mels, faces)
        rates.append(num_faces / (time.perf_counter() - start))
    return {
        "faces_per_second": round(statistics.median(rates), 2),
        "slowest": round(min(rates), 2),
        "fastest": round(max(rates), 2),
        "load_seconds": round(loaded, 3),
    }


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.25], help="of the networks")
    arguments.add_argument("--face-size", type=int, default=96, help="side in pixels")
    arguments.add_argument("--variants", nargs="+", default=list(VARIANTS), help="runtime[:precision]")
    arguments.add_argument("--batches", type=int, nargs="+", default=[None], help="faces at once")
    arguments.add_argument("--device", default="auto", help="device of the runtimes")
    arguments.add_argument("--threads", type=int, help="most threads")
    arguments.add_argument("--faces", type=int, default=64, help="faces in a measurement")
    arguments.add_argument("--repeats", type=int, default=5, help="measurements; the median is reported")
    chosen = arguments.parse_args()

    machine = describe_machine()
    rows = []
    for width in chosen.widths:
        for variant in chosen.variants:
            name, _, precision = variant.partition(":")
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "generator"
                in_fresh_process(write_folder, folder, width, chosen.face_size, precision or "fp32")
                tensors = folder / ("generator.safetensors" if name == "torch" else "generator.bin")
                size = tensors.stat().st_size
                for batch in chosen.batches:
                    figures, peak = in_fresh_process(
                        time_runtime,
                        folder,
                        name,
                        chosen.device,
                        chosen.threads,
                        batch,
                        chosen.faces,
                        chosen.repeats,
                    )
                    rows.append(
                        {
                            "width": width,
                            "variant": variant,
                            "batch": batch or "default",
                            **figures,
                            "file_mb": round(size / 1e6, 2),
                            "peak_memory_mib": round(peak, 1),
                        }
                    )
                    say(
                        f"width {width:g} {variant:14} batch {batch or 'default'}: "
                        f"{figures['faces_per_second']:7.1f} faces/s ({figures['slowest']:.1f} to "
                        f"{figures['fastest']:.1f}), load {figures['load_seconds']:.2f} s, {peak:.0f} MiB"
                    )
    publish(
        {
            "benchmark": "generator",
            "machine": machine,
            "versions": describe_versions(),
            "face_size": chosen.face_size,
            "device": chosen.device,
            "rows": rows,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
