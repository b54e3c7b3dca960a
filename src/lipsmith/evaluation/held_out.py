"""A generator on people that training never saw, with foreign words, judged by a network that was in no loss.

Each held-out clip (the face) is paired with the speech of another held-out speaker, and scored three times:

* **real**: the face with its own sound: what the judge is worth on this footage;
* **laid over**: the same face with the foreign speech, nothing generated: what chance gives;
* **generated**: the face repainted for the foreign speech as `lipsmith sync` does it, with its references.

Beside sync: how sharp the generated mouths are against the real ones; how like the real ones when the words are the
face's own (reference from another moment of the clip, so that the answer is not shown); whether they open and close
when the real ones do; how still the mouth is when the sound is silence; and whether what the person said in the video
can still be seen then (leakage).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from lipsmith.conditioning import ReferenceForm, generator_faces, lower_half, veiled, visibility
from lipsmith.data.clips import Clip
from lipsmith.data.samples import Split, expert_windows, load_split
from lipsmith.errors import DataError, UsageError, WeightsError
from lipsmith.evaluation.mouth import (
    closure_rank,
    gradient_ratio,
    lip_redness_ratio,
    mouth_variation,
    opening_correlation,
    psnr,
    sharpness_ratio,
    ssim,
)
from lipsmith.evaluation.strips import film_strip
from lipsmith.evaluation.sync_score import (
    Interval,
    SyncJudge,
    SyncScore,
    SyncSummary,
    bootstrap_ratio,
    score_clip,
    summarise,
)
from lipsmith.geometry import Image
from lipsmith.reference import clip_references, references_elsewhere
from lipsmith.timebase import MEL_RATE_HZ, SILENCE

FloatArray = NDArray[np.float32]
Faces = NDArray[np.uint8]

CONDITIONS = ("real", "laid over", "generated")
LEAKAGE = ("old words", "old words in silence")
"""The face's own sound, held against the mouth generated for foreign speech and for silence: chance when none leaks."""
_MOST_WEIGHED = 1000  # foreign speeches, drawn, for each face
LEAST_FRAMES = 25  # one second: a shorter clip has no offset curve worth the name


class FaceGenerator(Protocol):
    """The part of `lipsmith.runtime.GeneratorRuntime` that is needed here."""

    face_size: int

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """(n, 1, 80, 16), (n, 6 or 9, S, S) → (n, 3, S, S)."""
        ...


@dataclass(frozen=True)
class OpenGenerator:
    """A generator, and how it is to be fed, by its card.

    Attributes:
        network: what paints.
        lead_seconds: how much earlier than its frame its window of sound begins.
        reference: what it sees beside the masked face.
    """

    network: FaceGenerator
    lead_seconds: Fraction = Fraction(0)
    reference: ReferenceForm = "frame"

    def repaint(self, faces: Faces, windows: FloatArray, references: Faces | None = None) -> Faces:
        """Faces (T, S, S, 3) of one shot saying `windows` (T, 1, 80, 16), with inference's references by default."""
        shown = clip_references(self.reference, faces) if references is None else references
        made = generate_clip(self.network, _network_faces(faces), windows, _network_faces(shown))
        return _pictures(made)


@dataclass(frozen=True)
class Pair:
    """A face and the foreign speech that it is to say."""

    face: Clip
    speech: Clip
    num_frames: int


@dataclass(frozen=True)
class PairResult:
    """Everything measured on one pair."""

    face: str
    speech: str
    speaker: str
    num_frames: int
    scores: dict[str, SyncScore]
    """By condition."""
    sharpness: float
    """Laplacian variance of generated mouths over real ones, foreign speech."""
    gradient: float
    """Gradient energy of generated mouths over real ones, foreign speech."""
    psnr_lower: float
    """Decibels, lower half, own words."""
    ssim_lower: float
    """Lower half, own words."""
    opening: float
    """`opening_correlation`, own words, with inference's references."""
    closure: float
    """`closure_rank`, likewise."""
    lip_redness: float
    """`lip_redness_ratio`, likewise."""
    variation_real: float
    """`mouth_variation` of the real clip, grey levels; as the following two."""
    variation_speech: float
    variation_silence: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; what is not finite as None."""
        numbers = ("sharpness", "gradient", "psnr_lower", "ssim_lower", "opening", "closure", "lip_redness")
        variations = ("variation_real", "variation_speech", "variation_silence")
        return {
            "face": self.face,
            "speech": self.speech,
            "speaker": self.speaker,
            "num_frames": self.num_frames,
            **{name: _finite(getattr(self, name)) for name in (*numbers, *variations)},
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
        }


@dataclass(frozen=True)
class HeldOutReport:
    """A generator on held-out people; intervals draw speakers."""

    pairs: tuple[PairResult, ...]
    sync: dict[str, SyncSummary]
    """By condition, and by kind of leakage."""
    sharpness: Interval
    gradient: Interval
    psnr_lower: Interval
    ssim_lower: Interval
    opening: Interval
    """Correlation of how open generated and real mouths are, own words."""
    closure: Interval
    """How closed generated mouths are where the real ones close, 0 to 1, chance 0.5, own words."""
    lip_redness: Interval
    """How much redder lips are than what is around them, generated over real, own words."""
    motion_in_speech: Interval
    """Variation of the generated mouths over that of the real ones while they speak."""
    motion_in_silence: Interval
    """Variation of the same mouths hearing silence, over that while they speak; a moving head moves both."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with a row for each pair."""
        names = (
            "sharpness",
            "gradient",
            "psnr_lower",
            "ssim_lower",
            "opening",
            "closure",
            "lip_redness",
            "motion_in_speech",
            "motion_in_silence",
        )
        return {
            "num_pairs": len(self.pairs),
            "num_speakers": len({pair.speaker for pair in self.pairs}),
            "sync": {name: summary.to_dict() for name, summary in self.sync.items()},
            **{name: getattr(self, name).to_dict() for name in names},
            "pairs": [pair.to_dict() for pair in self.pairs],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_markdown(self) -> str:
        """The numbers as tables; in brackets the 95 % interval over speakers."""
        lines = [
            f"{len(self.pairs)} pairs, {len({pair.speaker for pair in self.pairs})} speakers. Chance is 50 %. "
            "LSE with this judge's distances in the place of SyncNet's.",
            "",
            "| condition | prefers its own sound | offset within one frame | LSE-D ↓ | LSE-C ↑ | clips · windows |",
            "|---|---|---|---|---|---|",
        ]
        for name, summary in self.sync.items():
            lines.append(
                f"| {name} | {_percent(summary.preference_share)} | {_percent(summary.offset_within_one_share)} "
                f"| {_plain(summary.lse_d, 3)} | {_plain(summary.lse_c, 3)} "
                f"| {summary.num_clips} · {summary.num_windows} |"
            )
        lines += [
            "",
            "| generated mouths | value |",
            "|---|---|",
            f"| sharpness, generated / real (Laplacian variance) | {_plain(self.sharpness, 2)} |",
            f"| sharpness, generated / real (gradient energy) | {_plain(self.gradient, 2)} |",
            f"| PSNR of the lower half, own words | {_plain(self.psnr_lower, 1)} dB |",
            f"| SSIM of the lower half, own words | {_plain(self.ssim_lower, 3)} |",
            f"| opens when the real mouth does, own words (correlation) | {_plain(self.opening, 2)} |",
            f"| openness where the real mouth closes, own words (chance 0.5) | {_plain(self.closure, 2)} |",
            f"| redness of the lips, generated / real, own words | {_plain(self.lip_redness, 2)} |",
            f"| motion while speaking, generated / real | {_plain(self.motion_in_speech, 2)} |",
            f"| motion in silence / while speaking | {_plain(self.motion_in_silence, 2)} |",
        ]
        return "\n".join(lines) + "\n"


def make_pairs(
    clips: Sequence[Clip], *, per_clip: int = 1, max_frames: int = 125, seed: int = 0
) -> list[Pair]:
    """Pair every clip with the speech of `per_clip` others, of other speakers, the longest that are free
    first; of more than a thousand others, of a thousand that are drawn.

    Args:
        clips: held-out clips; those under a second are left out.
        per_clip: foreign speeches for each face.
        max_frames: a pair is cut to this length, and to the shorter of its two clips.
        seed: of the draw.

    Raises:
        DataError: fewer than two speakers with a second of footage each.
    """
    usable = [clip for clip in clips if len(clip) >= LEAST_FRAMES]
    if len({clip.record.speaker for clip in usable}) < 2:
        raise DataError(
            f"{len(usable)} clips of a second or more are by fewer than two speakers: foreign speech needs two."
        )
    rng = np.random.default_rng(seed)
    pairs = []
    used = dict.fromkeys(range(len(usable)), 0)
    _, speakers = np.unique([clip.record.speaker for clip in usable], return_inverse=True)
    for face, speaker in zip(usable, speakers, strict=True):
        others = np.flatnonzero(speakers != speaker)
        if len(others) > _MOST_WEIGHED:
            others = rng.choice(others, _MOST_WEIGHED, replace=False)
        foreign = others.tolist()
        rng.shuffle(foreign)
        wanted = min(len(face), max_frames)
        # Long enough speech first, then speech that was used least: a short one would cut the face short.
        foreign.sort(key=lambda i: (min(len(usable[i]), wanted) < wanted, used[i], -len(usable[i])))
        for i in foreign[:per_clip]:
            used[i] += 1
            pairs.append(Pair(face, usable[i], min(wanted, len(usable[i]))))
    return pairs


def generate_clip(
    generator: FaceGenerator, faces: FloatArray, windows: FloatArray, references: FloatArray
) -> FloatArray:
    """Repaint the lower halves of a clip.

    Args:
        faces: (T, 3, S, S) BGR 0–1.
        windows: (T, 1, 80, 16): what each frame hears.
        references: (T, 3, S, S), or (T, 6, S, S) of two.

    Returns:
        (T, 3, S, S), 0–1.
    """
    seen = visibility(faces)
    inputs = generator_faces(faces, references, seen)
    made = generator.generate(
        np.ascontiguousarray(windows, np.float32), np.ascontiguousarray(inputs, np.float32)
    )
    return np.clip(veiled(made, seen), 0, 1)


def evaluate_pair(generator: OpenGenerator, judge: SyncJudge, pair: Pair) -> PairResult:
    """Score one pair in all conditions.

    Args:
        generator: of faces of the prepared clips' size.
        judge: an expert that was in no loss of the generator.
        pair: face and speech.
    """
    count, lead = pair.num_frames, generator.lead_seconds
    real = pair.face.faces(0, count)
    heard, own_sound = (expert_windows(clip, 0, count, judge.frames) for clip in (pair.speech, pair.face))
    windows = pair.speech.windows(lead)[:count]
    generated = generator.repaint(real, windows)
    silent = generator.repaint(real, np.full_like(windows, SILENCE))
    elsewhere = references_elsewhere(generator.reference, real)
    own_windows = pair.face.windows(lead)[:count]
    repainted = generator.repaint(real, own_windows, elsewhere)
    spoken = generator.repaint(real, own_windows)
    half = real.shape[1] // 2
    scores = score_conditions(judge, real, generated, silent, own_sound, heard)
    return PairResult(
        face=pair.face.record.id,
        speech=pair.speech.record.id,
        speaker=pair.face.record.speaker,
        num_frames=count,
        scores=scores,
        sharpness=sharpness_ratio(generated, real),
        gradient=gradient_ratio(generated, real),
        psnr_lower=float(np.mean(psnr(repainted[:, half:], real[:, half:]))),
        ssim_lower=float(np.mean(ssim(repainted[:, half:], real[:, half:]))),
        opening=opening_correlation(spoken, real),
        closure=closure_rank(spoken, real),
        lip_redness=lip_redness_ratio(spoken, real),
        variation_real=mouth_variation(real),
        variation_speech=mouth_variation(generated),
        variation_silence=mouth_variation(silent),
    )


def score_conditions(
    judge: SyncJudge, real: Faces, generated: Faces, silent: Faces, own_sound: FloatArray, heard: FloatArray
) -> dict[str, SyncScore]:
    """The score of each of `CONDITIONS` and `LEAKAGE`.

    Args:
        judge: an expert that was in no loss of the generator.
        real, generated, silent: face crops (T, S, S, 3) BGR of the video as it was, and made to say foreign speech and
            nothing.
        own_sound, heard: the original's sound and the foreign speech, a window (1, 80, 16) for each window of frames.
    """

    def score(faces: Faces, sound: FloatArray) -> SyncScore:
        return score_clip(judge, lower_half(_network_faces(faces)), sound)

    return {
        "real": score(real, own_sound),
        "laid over": score(real, heard),
        "generated": score(generated, heard),
        "old words": score(generated, own_sound),
        "old words in silence": score(silent, own_sound),
    }


def evaluate_generator(
    generator: OpenGenerator,
    judge: SyncJudge,
    pairs: Sequence[Pair],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOutReport:
    """Evaluate a generator on `pairs`; `on_progress` is called with (pairs done, pairs in all)."""
    sizes = {pair.face.record.face_size for pair in pairs}
    face_size = generator.network.face_size
    if sizes - {face_size}:
        raise UsageError(
            f"The generator paints faces of {face_size} pixels, the prepared clips have "
            f"{', '.join(map(str, sorted(sizes)))}: prepare them with --face-size {face_size}."
        )
    results = []
    for done, pair in enumerate(pairs, 1):
        results.append(evaluate_pair(generator, judge, pair))
        if on_progress:
            on_progress(done, len(pairs))
    return summarise_pairs(results)


def summarise_pairs(results: Sequence[PairResult]) -> HeldOutReport:
    """Put the results of many pairs together."""
    speakers = [result.speaker for result in results]

    def mean(values: Sequence[float]) -> Interval:
        kept = [(value, s) for value, s in zip(values, speakers, strict=True) if np.isfinite(value)]
        numbers = np.array([value for value, _ in kept], dtype=np.float64)
        return bootstrap_ratio(numbers, np.ones(len(numbers)), [s for _, s in kept])

    def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Interval:
        return bootstrap_ratio(np.array(tops, np.float64), np.array(bottoms, np.float64), speakers)

    speech = [result.variation_speech for result in results]
    return HeldOutReport(
        pairs=tuple(results),
        sync={
            name: summarise([result.scores[name] for result in results], speakers)
            for name in (*CONDITIONS, *LEAKAGE)
        },
        sharpness=mean([result.sharpness for result in results]),
        gradient=mean([result.gradient for result in results]),
        psnr_lower=mean([result.psnr_lower for result in results]),
        ssim_lower=mean([result.ssim_lower for result in results]),
        opening=mean([result.opening for result in results]),
        closure=mean([result.closure for result in results]),
        lip_redness=mean([result.lip_redness for result in results]),
        motion_in_speech=ratio(speech, [result.variation_real for result in results]),
        motion_in_silence=ratio([result.variation_silence for result in results], speech),
    )


def pair_strip(
    generator: OpenGenerator,
    pair: Pair,
    *,
    first_frame: int = 10,
    num_frames: int = 14,
    every: int = 2,
) -> Image:
    """A film strip of one pair: the real face, its mouth for the foreign speech, and for silence."""
    count = pair.num_frames
    real = pair.face.faces(0, count)
    windows = pair.speech.windows(generator.lead_seconds)[:count]
    rows = {
        "real\n(laid over)": real,
        "generated": generator.repaint(real, windows),
        "generated\nin silence": generator.repaint(real, np.full_like(windows, SILENCE)),
    }
    # Where in the clip's own mel frame 0 begins.
    start = pair.speech.starts()[0] / MEL_RATE_HZ
    return film_strip(
        rows,
        pair.speech.mel,
        first_frame=first_frame,
        num_frames=num_frames,
        every=every,
        mel_seconds=start,
    )


def score_real(judge: SyncJudge, clips: Sequence[Clip], *, max_frames: int = 250) -> SyncSummary:
    """Sync of prepared clips as they are: real footage, or prepared outputs of `lipsmith sync`."""
    scores = []
    for clip in clips:
        count = min(len(clip), max_frames)
        if count < judge.frames:
            continue
        faces = lower_half(_network_faces(clip.faces(0, count)))
        scores.append((score_clip(judge, faces, expert_windows(clip, 0, count, judge.frames)), clip))
    return summarise([score for score, _ in scores], [clip.record.speaker for _, clip in scores])


def load_clips(data: Path, recipe: Path, split: Split = "test") -> Sequence[Clip]:
    """The clips of folder `data` that are `split` by `recipe`, their offsets corrected as it says.

    Those of a training split are read when they are asked for.
    """
    from lipsmith.training.recipe import load_recipe

    return load_split(data, load_recipe(recipe).data.selection(), split)


def open_judge(path: Path | str) -> SyncJudge:
    """An expert, frozen and in evaluation mode; named as for `lipsmith.training.expert.load_expert`."""
    from lipsmith.training.expert import load_expert

    return load_expert(path)


def open_generator(model: str, *, runtime: str = "openvino") -> OpenGenerator:
    """A generator, to be fed as its card or its training says.

    Args:
        model: the name of weights, a weights folder, a checkpoint file, or the run folder of a training (its
            best weights) or a weights file in one.
        runtime: which runtime weights folders are run by; trainings are run by PyTorch.
    """
    from lipsmith.runtime.base import resolve_runtime
    from lipsmith.weights import resolve
    from lipsmith.weights.store import is_installed

    path = Path(model).expanduser()
    if (path / "best.safetensors").is_file():
        path = path / "best.safetensors"
    if not is_installed(model) and path.is_file() and path.suffix == ".safetensors":
        trained = _open_trained(path)
        if trained is not None:
            return trained
    card, folder = resolve(model)
    if card.kind != "generator":
        raise WeightsError(f"{model} is a {card.kind}, not a generator.")
    return OpenGenerator(
        resolve_runtime(runtime, folder, articulation=card.articulation),
        card.window_lead_seconds,
        card.reference,
    )


class _TrainedGenerator:
    """Weights of a training run, which say themselves what they are."""

    _BATCH = 16

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        from safetensors.torch import load_file

        from lipsmith.models.generators import build_generator

        self.face_size = int(metadata["face_size"])
        form = metadata.get("architecture", "wav2lip")
        self._network = build_generator(form, float(metadata["width"]), self.face_size)
        self._network.load_state_dict(load_file(path))
        self._network.eval()

    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """See `GeneratorRuntime.generate`."""
        import torch

        with torch.inference_mode():
            parts = [
                self._network(
                    torch.from_numpy(mels[start : start + self._BATCH]),
                    torch.from_numpy(faces[start : start + self._BATCH]),
                )
                .float()
                .numpy()
                for start in range(0, len(mels), self._BATCH)
            ]
        return np.concatenate(parts)


def _open_trained(path: Path) -> OpenGenerator | None:
    """None where the file is not from a training of a generator."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None  # `weights.resolve` says what such a file is
    if not {"face_size", "width", "lead_seconds"} <= metadata.keys():
        return None
    forms: tuple[ReferenceForm, ...] = get_args(ReferenceForm)
    # Weights of before there were several forms do not name theirs.
    named: ReferenceForm = next((form for form in forms if form == metadata.get("reference")), "frame")
    return OpenGenerator(_TrainedGenerator(path, metadata), Fraction(metadata["lead_seconds"]), named)


def _network_faces(images: Faces) -> FloatArray:
    """(T, S, S, 3) uint8 → (T, 3, S, S) float32, 0–1."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _pictures(faces: FloatArray) -> Faces:
    """(T, 3, S, S) 0–1 → (T, S, S, 3) uint8."""
    return np.clip(np.rint(faces.transpose(0, 2, 3, 1) * 255), 0, 255).astype(np.uint8)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def _plain(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}–{interval.high:.{digits}f})"
