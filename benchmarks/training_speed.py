"""Training: does the reader keep up with the step, and how do both compare with the published loader and step?

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --only readers published-loader --seconds-each 3
    python benchmarks/training_speed.py --only training --recipes wav2lip --steps 8 --processes 1

Drawn people, the same clips twice: as shards, made by `lipsmith prepare`, and as numbered pictures with their sound.

* readers: batches a second of `expert_batch` and `generator_batch`, called as the recipes' trainings call them, at one
  thread and at two: with the clips in memory (footage of hours) and with each clip read from its shard each time that
  it is drawn (footage that memory cannot hold).
* training: the trainings themselves, with blocks of steps in which the reader's batches are replaced by one that was
  kept. `kept` is what the step costs, `read` what it costs with the reader working beside it on the same cores;
  `lost` = 1 − kept ÷ read; `waited` is the part in which the step had nothing to do. Processor time a sample, of step
  and reader, says the same on a machine that is busy with other things.
* published-loader, published-training: what stands for the loader and the steps of the published training, derived from
  their description. For every sample the pictures are read from their files (five, and for the generator five more as
  reference) and resized, and the whole sound is read and its whole mel computed, for 16 columns of it. A batch is 64
  windows for the expert and 16 for the generator; plain float32, Adam, L1 alone until the expert is let in. The mel is
  ours, which is faster than librosa's, and no sound needs resampling: both favour the published side. Two loader
  processes stand for two threads.

A sample is a row of a batch: five frames with their sound in the paper's recipes, a longer stretch in ours. wav2lip is
timed as it begins, before its sync term is let in: its fastest step, the hardest for the reader. Networks are
untrained. Needs the extra `train`.
"""

import math
import os
import random
import statistics
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measurement import describe_machine, describe_versions, in_fresh_process, medians, parser, publish, say
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Rates = dict[str, Any]
RECIPES = Path(__file__).parents[1] / "recipes"
OURS = ("paper_expert", "wav2lip", "expert", "refinement")
PUBLISHED = ("paper_expert", "wav2lip")
PARTS = ("readers", "training", "published-loader", "published-training")
BATCH_ROWS = {"paper_expert": 64, "wav2lip": 16}  # of the published trainings
FACE_SIZE = 96
WINDOW_FRAMES = 5


@dataclass(frozen=True)
class Amount:
    """How much is drawn, and how long is measured."""

    speakers: int
    clips: int
    clip_seconds: float
    picture_size: int
    seconds_each: float
    repeats: int
    steps: int


# Footage and an expert, which speed does not depend on.


def draw_footage(folder: Path, amount: Amount) -> None:
    """`pictures`: numbered crops and sound of each clip. `prepared`: the same as shards. `expert`: an untrained one."""
    import cv2

    from lipsmith.data.prepare import prepare
    from lipsmith.data.synthetic import SyntheticSpeaker, synthesize_clip, write_wav
    from lipsmith.training.expert import build_expert
    from lipsmith.training.recipe import ExpertModel
    from lipsmith.training.run import save_weights

    for number in range(amount.speakers):
        for take in range(amount.clips):
            clip_folder = folder / "pictures" / f"speaker_{number}" / f"{take:05d}"
            clip_folder.mkdir(parents=True)
            clip = synthesize_clip(
                SyntheticSpeaker(number),
                amount.clip_seconds,
                number * amount.clips + take,
                size=amount.picture_size,
            )
            for index, face in enumerate(clip.frames):
                cv2.imwrite(str(clip_folder / f"{index}.jpg"), face)
            write_wav(clip_folder / "audio.wav", clip.samples)
    prepare([folder / "pictures"], folder / "prepared", workers=1)
    (folder / "expert").mkdir()
    model = ExpertModel(form="dense", columns=96)
    metadata = {"kind": "expert", "model": model.model_dump_json()}
    save_weights(build_expert(model), folder / "expert" / "best.safetensors", metadata)


# Ours.


class _Enough(Exception):  # noqa: N818
    """Ends a training that has shown what it was started for."""


def _train(
    folder: Path,
    name: str,
    read: Callable[[Callable[..., Any], tuple, dict], Any],
    report: Callable[..., None],
    **changes: Any,
) -> None:
    """Run the training of a recipe until `read` or `report` raise `_Enough`.

    Args:
        folder: Written by `draw_footage`.
        name: Of the recipe.
        read: Stands in for the function that draws a batch; called with that function and its arguments.
        report: See `lipsmith.training.run.Report`.
        changes: To the recipe, besides those that all have here.
    """
    from lipsmith.training import expert, generator
    from lipsmith.training.recipe import ExpertRecipe, load_recipe

    here = {"data": {"validation": ["speaker_0"]}, "steps": 10**6, "validate_every": 10**6}
    recipe = load_recipe(RECIPES / f"{name}.yaml", {**here, "checkpoint_every": 0, **changes})
    is_expert = isinstance(recipe, ExpertRecipe)
    module, function = (expert, "expert_batch") if is_expert else (generator, "generator_batch")
    original = getattr(module, function)
    setattr(module, function, lambda *args, **kwargs: read(original, args, kwargs))
    prepared = folder / "prepared"
    with tempfile.TemporaryDirectory() as output, suppress(_Enough):
        if isinstance(recipe, ExpertRecipe):
            expert.train_expert(recipe, prepared, Path(output), on_progress=report)
        else:
            generator.train_generator(
                recipe, prepared, Path(output), expert=folder / "expert", on_progress=report
            )
    setattr(module, function, original)


def _num_kinds(name: str) -> int:
    """Of batches that a recipe's training takes in turn."""
    from lipsmith.training.recipe import ExpertRecipe, load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml")
    return len(recipe.batch.stretches) if isinstance(recipe, ExpertRecipe) else 1


def _size(batch: Any) -> tuple[int, int]:
    """Rows and frames of a batch."""
    faces = batch.lower_halves if hasattr(batch, "lower_halves") else batch.targets
    return faces.shape[0], faces.shape[0] * faces.shape[1]


def time_reader(folder: Path, name: str, amount: Amount) -> list[Rates]:
    """Rates of the reader alone, drawing what the training of recipe `name` asks for, at one thread and at two."""
    import cv2

    from lipsmith.data.reader import ClipSet
    from lipsmith.data.samples import ClipSampler

    kinds = _num_kinds(name)
    asked: list[tuple[Callable[..., Any], tuple, dict]] = []

    def listen(original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        asked.append((original, args, kwargs))
        if len(asked) == kinds:
            raise _Enough
        return original(*args, **kwargs)

    _train(folder, name, listen, lambda *_: None, **{"model.width": 0.125})
    clips = asked[0][1][0].clips
    samplers = {}
    for place, memory_bytes in (("memory", None), ("shards", 0)):
        samplers[place] = ClipSampler(ClipSet(clips.location, clips.records, memory_bytes=memory_bytes))
        for number in range(len(clips)):
            samplers[place].clips.get(number)  # the first reading checks each clip
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(2) as pool:

        def drawing(place: str, threads: int) -> Callable[[int], tuple[int, int]]:
            def draw(number: int) -> tuple[int, int]:
                original, args, kwargs = asked[number % kinds]
                rng = np.random.default_rng([1, number])
                kwargs = {**kwargs, "pool": pool if threads > 1 else None}
                return _size(original(samplers[place], rng, *args[2:], **kwargs))

            return draw

        ways = {(place, threads): drawing(place, threads) for place in samplers for threads in (1, 2)}
        return _rates(ways, kinds, amount)


def _rates(
    ways: dict[tuple[str, int], Callable[[int], tuple[int, int]]], kinds: int, amount: Amount
) -> list[Rates]:
    """Samples and frames a second of each way to draw batches, all in turn, several times over.

    Args:
        ways: (where from, threads or processes) → draws a batch by its number; its rows and frames.
        kinds: Of batches that take turns.
        amount: For how long, and how often.
    """
    found: dict[tuple[str, int], list[dict[str, float]]] = {way: [] for way in ways}
    for draw in ways.values():
        for number in range(2 * kinds):
            draw(number)
    for _ in range(amount.repeats):
        for way, draw in ways.items():
            rows = frames = batches = 0
            start, start_cpu = time.perf_counter(), time.process_time()
            while time.perf_counter() < start + amount.seconds_each or batches % kinds:
                drawn = draw(batches)
                rows, frames, batches = rows + drawn[0], frames + drawn[1], batches + 1
            seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
            found[way].append(
                {
                    "samples_per_second": rows / seconds,
                    "frames_per_second": frames / seconds,
                    "cpu_milliseconds_per_sample": 1000 * cpu / rows,
                }
            )
    return [
        {"from": place, "threads": threads, **medians(runs), **_spread(runs)}
        for (place, threads), runs in found.items()
    ]


def _spread(runs: list[dict[str, float]]) -> dict[str, float]:
    """The lowest and the highest rate."""
    rates = [run["samples_per_second"] for run in runs]
    return {"slowest": round(min(rates), 2), "fastest": round(max(rates), 2)}


@dataclass(frozen=True)
class Step:
    """What a step cost: wall and processor seconds, and those of the former in which it waited for its batch."""

    kind: int  # of its batch
    seconds: float
    cpu_seconds: float
    waited_seconds: float


def time_training(folder: Path, name: str, amount: Amount) -> Rates:
    """A step of recipe `name` with a batch that was kept and with the reader's, in turn."""
    kinds = warm_up = _num_kinds(name)
    block = max(kinds + 1, amount.steps // 4)
    kept: list[Any] = []
    read_by_reader: list[bool] = []
    ready: list[float] = []
    stamps: list[tuple[float, float]] = []

    def read(original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        number = len(ready)
        by_reader = number < kinds or (number // block) % 2 == 1
        batch = original(*args, **kwargs) if by_reader else kept[number % kinds]
        if number < kinds:
            kept.append(batch)
        read_by_reader.append(by_reader)
        ready.append(time.perf_counter())
        return batch

    def report(step: int, *_: object) -> None:
        stamps.append((time.perf_counter(), time.process_time()))
        if step == warm_up + amount.steps:
            raise _Enough

    _train(folder, name, read, report)
    steps: dict[bool, list[Step]] = {True: [], False: []}
    for number, ((start, cpu_start), (end, cpu_end)) in enumerate(pairwise(stamps), 1):
        # While batch `number` is learned from, the next one is read.
        if number >= warm_up and read_by_reader[number] == read_by_reader[number + 1]:
            waited = max(0.0, ready[number] - start)
            step = Step(number % kinds, end - start, cpu_end - cpu_start, waited)
            steps[read_by_reader[number]].append(step)
    rows, frames = map(statistics.mean, zip(*map(_size, kept), strict=True))
    return _compared(steps[False], steps[True], rows, frames)


def _compared(kept: list[Step], read: list[Step], rows: float, frames: float) -> Rates:
    """What steps with a kept batch and with the reader's cost; rows and frames of the batch."""
    without, with_reader = _mean_step(kept, "seconds"), _mean_step(read, "seconds")
    return {
        "kept_seconds": without,
        "read_seconds": with_reader,
        "lost_share": 1 - without / with_reader,
        "waited_share": sum(step.waited_seconds for step in read) / sum(step.seconds for step in read),
        "samples_per_second": rows / without,
        "frames_per_second": frames / without,
        "cpu_milliseconds_per_sample": 1000 * _mean_step(kept, "cpu_seconds") / rows,
        "steps": len(kept) + len(read),
    }


def _mean_step(steps: list[Step], figure: str) -> float:
    """The median of each kind of batch, and the mean of these, since the kinds take turns."""
    kinds = {step.kind for step in steps}
    return statistics.mean(
        statistics.median(getattr(step, figure) for step in steps if step.kind == kind) for kind in kinds
    )


# The published way.


@dataclass
class PublishedSamples:
    """What the published loader does for a sample, whichever is asked for: it draws its own."""

    folder: Path
    for_generator: bool
    clips: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.clips = sorted(path.parent for path in self.folder.rglob("audio.wav"))

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, _: int) -> tuple[FloatArray, ...]:
        import cv2

        from lipsmith.audio.mel import mel_spectrogram

        clip = random.choice(self.clips)
        names = list(clip.glob("*.jpg"))
        first, other = (random.randrange(len(names) - WINDOW_FRAMES) for _ in range(2))

        def pictures(start: int) -> FloatArray:
            read = (cv2.imread(str(clip / f"{start + i}.jpg")) for i in range(WINDOW_FRAMES))
            resized = [cv2.resize(picture, (FACE_SIZE, FACE_SIZE)) for picture in read]
            return np.asarray(resized, np.float32).transpose(0, 3, 1, 2) / 255

        with wave.open(str(clip / "audio.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 2**15
        mel = mel_spectrogram(samples)

        def heard(frame: int) -> FloatArray:
            columns = mel[:, int(80 * max(frame, 0) / 25) :][:, :16]
            return np.pad(columns, ((0, 0), (0, 16 - columns.shape[1])), mode="edge")[None]

        if not self.for_generator:
            in_sync = random.random() < 0.5
            lower = pictures(first)[:, :, FACE_SIZE // 2 :].reshape(15, FACE_SIZE // 2, FACE_SIZE)
            return lower, heard(first if in_sync else other), np.float32([in_sync])
        target, reference = pictures(first), pictures(other)
        masked = target.copy()
        masked[:, :, FACE_SIZE // 2 :] = 0
        each = np.stack([heard(first + i - 1) for i in range(WINDOW_FRAMES)])
        return np.concatenate([masked, reference], axis=1), each, heard(first), target


def _published_loader(folder: Path, name: str, processes: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    samples = PublishedSamples(folder / "pictures", name == "wav2lip")
    return iter(DataLoader(samples, BATCH_ROWS[name], num_workers=processes))  # type: ignore[arg-type]


def time_published_loader(folder: Path, name: str, amount: Amount) -> list[Rates]:
    """Rates of the loader alone: in the training's own process, and in two others."""
    rows = BATCH_ROWS[name]

    def drawing(processes: int) -> Callable[[int], tuple[int, int]]:
        loader = _published_loader(folder, name, processes)

        def draw(_: int) -> tuple[int, int]:
            next(loader)
            return rows, rows * WINDOW_FRAMES

        return draw

    one = _rates({("files", 1): drawing(0)}, 1, amount)
    two = drawing(2)
    for number in range(4):  # what was fetched ahead is none of the rate
        two(number)
    others = _rates({("files", 2): two}, 1, amount)
    del others[0]["cpu_milliseconds_per_sample"]  # of this process alone
    return one + others


def time_published_training(folder: Path, name: str, amount: Amount) -> Rates:
    """A published step with a batch that was kept and with two loader processes beside it, in turn."""
    import torch

    learn = _published_expert_step() if name == "paper_expert" else _published_generator_step()
    block = max(2, amount.steps // 4)
    steps: dict[bool, list[Step]] = {False: [], True: []}
    torch.manual_seed(0)
    kept = next(_published_loader(folder, name, 0))
    learn(kept)
    for turn in range(4 if amount.steps >= 8 else 2):
        loads = turn % 2 == 1
        loader = _published_loader(folder, name, 2) if loads else None
        for number in range(block):
            start, cpu_start = time.perf_counter(), time.process_time()
            batch = kept if loader is None else next(loader)
            loaded = time.perf_counter()
            learn(batch)
            if number:
                end, cpu_end = time.perf_counter(), time.process_time()
                steps[loads].append(Step(0, end - start, cpu_end - cpu_start, loaded - start))
        del loader
    rows = BATCH_ROWS[name]
    return _compared(steps[False], steps[True], rows, rows * WINDOW_FRAMES)


def _published_expert_step() -> Callable[[Any], None]:
    import torch
    from torch.nn import functional as F

    from lipsmith.models.expert import LipSyncExpert

    expert = LipSyncExpert().train()
    optimiser = torch.optim.Adam(expert.parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        faces, sound, in_sync = batch
        optimiser.zero_grad()
        lips, heard = expert.embed_lips(faces.unflatten(1, (5, 3))), expert.embed_sound(sound[:, None])
        cosine = F.cosine_similarity(lips.flatten(0, 1), heard.flatten(0, 1))
        loss = F.binary_cross_entropy(cosine.clamp(0, 1)[:, None], in_sync)
        loss.backward()
        optimiser.step()
        loss.item()

    return step


def _published_generator_step() -> Callable[[Any], None]:
    import torch
    from torch.nn import functional as F

    from lipsmith.models.wav2lip import Wav2Lip

    generator = Wav2Lip().train()
    optimiser = torch.optim.Adam(generator.parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        faces, each, _, target = batch
        optimiser.zero_grad()
        painted = generator(each.flatten(0, 1), faces.flatten(0, 1))
        loss = F.l1_loss(painted, target.flatten(0, 1))
        loss.backward()
        optimiser.step()
        loss.item()

    return step


# All of it.


def _repeated(repeats: int, function: Callable[..., Rates], *arguments: object) -> Rates:
    """Medians over `repeats` processes, and the lowest and highest rate."""
    runs = []
    for _ in range(repeats):
        figures, peak = in_fresh_process(function, *arguments)
        runs.append(figures | {"peak_memory_mib": peak})
    return {**medians(runs), **_spread(runs), "runs": runs}


def _say_rates(words: str, rows: list[Rates]) -> None:
    for row in rows:
        say(
            f"{words}, from {row['from']}, {row['threads']} at once: {row['samples_per_second']:.1f} samples/s "
            f"({row['slowest']:.1f} to {row['fastest']:.1f}), {row['frames_per_second']:.0f} frames/s, "
            f"CPU {row.get('cpu_milliseconds_per_sample', math.nan):.2f} ms a sample"
        )


def _say_step(words: str, row: Rates) -> None:
    say(
        f"{words}: step {row['kept_seconds']:.3f} s, with the reader {row['read_seconds']:.3f} s: "
        f"lost {row['lost_share']:.1%}, waited {row['waited_share']:.1%}; "
        f"CPU {row['cpu_milliseconds_per_sample']:.1f} ms a sample"
    )


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    arguments.add_argument("--recipes", nargs="+", choices=OURS, default=list(OURS), help="whose trainings")
    arguments.add_argument("--footage", type=Path, help="folder to draw into, or drawn into before")
    arguments.add_argument("--speakers", type=int, default=6, help="drawn people; the first is held out")
    arguments.add_argument("--clips", type=int, default=4, help="of each")
    arguments.add_argument("--clip-seconds", type=float, default=4, help="length of a clip")
    arguments.add_argument("--picture-size", type=int, default=112, help="side of the numbered pictures")
    arguments.add_argument("--seconds-each", type=float, default=3, help="length of a reader's measurement")
    arguments.add_argument("--steps", type=int, default=24, help="of a training's measurement")
    arguments.add_argument("--repeats", type=int, default=3, help="of a reader's; the medians are reported")
    arguments.add_argument("--processes", type=int, default=3, help="a training; the medians are reported")
    chosen = arguments.parse_args()
    amount = Amount(
        chosen.speakers,
        chosen.clips,
        chosen.clip_seconds,
        chosen.picture_size,
        chosen.seconds_each,
        chosen.repeats,
        chosen.steps,
    )

    # Two processes that each compute mels on all cores would slow down the published side.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    machine = describe_machine()
    readers: list[Rates] = []
    steps: list[Rates] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.footage or Path(scratch)
        if not (folder / "expert").exists():
            in_fresh_process(draw_footage, folder, amount)
        for name in chosen.recipes:
            if "readers" in chosen.only:
                rates, _ = in_fresh_process(time_reader, folder, name, amount)
                readers += [{"way": "ours", "recipe": name, **row} for row in rates]
                _say_rates(f"{name}, reader", rates)
            if "training" in chosen.only:
                row = _repeated(chosen.processes, time_training, folder, name, amount)
                steps.append({"way": "ours", "recipe": name, **row})
                _say_step(f"{name}, training", row)
            if name in PUBLISHED and "published-loader" in chosen.only:
                rates, _ = in_fresh_process(time_published_loader, folder, name, amount)
                readers += [{"way": "published", "recipe": name, **row} for row in rates]
                _say_rates(f"{name}, published loader", rates)
            if name in PUBLISHED and "published-training" in chosen.only:
                row = _repeated(chosen.processes, time_published_training, folder, name, amount)
                steps.append({"way": "published", "recipe": name, **row})
                _say_step(f"{name}, published training", row)
    _say_table(readers, steps)
    publish(
        {
            "benchmark": "training_speed",
            "machine": machine,
            "versions": describe_versions(),
            "amount": vars(amount),
            "readers": readers,
            "steps": steps,
        },
        chosen.json,
    )


def _say_table(readers: list[Rates], steps: list[Rates]) -> None:
    """Reader against step, for each training of which both were measured."""
    alone = {
        (row["way"], row["recipe"]): row for row in readers if row["threads"] == 1 and row["from"] != "memory"
    }
    say("| training | CPU a sample: reader | step | step ÷ reader | step, samples/s | lost | waited |")
    say("|---|---|---|---|---|---|---|")
    for row in steps:
        reader = alone.get((row["way"], row["recipe"]), {}).get("cpu_milliseconds_per_sample", math.nan)
        step = row["cpu_milliseconds_per_sample"]
        say(
            f"| {row['recipe']}, {row['way']} | {reader:.2f} ms | {step:.1f} ms | {step / reader:.0f} "
            f"| {row['samples_per_second']:.2f} | {row['lost_share']:.1%} | {row['waited_share']:.1%} |"
        )


if __name__ == "__main__":
    main()
