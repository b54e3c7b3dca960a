"""Prepared clips → training batches: which clips, which frames, which references, which sound.

Every batch is a pure function of (data, seed, step), so that a resumed training sees what an uninterrupted one would.
Which clips it is made of is drawn for all rows at once; the rest of a row depends on the row's own seed alone, so that
several processes can each prepare some rows of it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.voice import speech_activity
from lipsmith.audio.windows import window_batch
from lipsmith.conditioning import ReferenceForm
from lipsmith.data.augment import (
    CropMotion,
    FaceAugmentation,
    SoundAugmentation,
    change_sound,
    draw_motion,
    move_crop,
    recolour,
    roughen,
    upper_shift,
)
from lipsmith.data.clips import Clip, ClipRecord, read_index, stored_size
from lipsmith.data.reader import ClipSet
from lipsmith.data.splits import hold_out_speakers
from lipsmith.data.storage import Location
from lipsmith.errors import DataError
from lipsmith.reference import AT_REST, OPEN, openness, placed_references, views_of
from lipsmith.timebase import EXPERT_FRAMES, NUM_MELS, SILENCE, WINDOW_COLUMNS, expert_lead

FloatArray = NDArray[np.float32]
Split = Literal["train", "validation", "test"]

# Of a pair of references: frames to choose from, and how many of them are near enough in pose; how often both are the
# same frame, and how often the first is any.
_PAIR_CANDIDATES, _NEAR_SHARE = 16, 2 / 3
_SAME_SHARE, _ANY_SHARE = 0.15, 0.2


@dataclass(frozen=True)
class DataSelection:
    """Which clips of a prepared folder serve for what.

    Attributes:
        uses: Permitted values of a clip's `use`; empty for all.
        leave_out: Sources whose name contains one of these are not used.
        validation: Speakers held out for choosing when to stop.
        test: Speakers held out for the numbers in the card. For the part for which nobody is named, the footage's own
            lists count (`ClipRecord.split`); without names and lists speakers are held out by `split_seed`.
        crowds: Speaker names that stand for many unknown people → how many; they count as that many in sampling and
            are never held out.
        max_offset_seconds: A clip whose measured offset is larger is dropped.
        min_offset_confidence: A clip whose offset was measured with less confidence keeps offset 0.
        hold_out: Share of the speakers that is held out by the seed, for validation and for test each; 0 for nobody.
        split_seed: Decides who.
    """

    uses: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    crowds: tuple[tuple[str, int], ...] = ()
    max_offset_seconds: float = 0.3
    min_offset_confidence: float = 0.0
    hold_out: float = 0.1
    split_seed: int = 0

    def records(self, records: Sequence[ClipRecord], split: Split) -> list[ClipRecord]:
        """The records of one split, their offsets corrected, in the order of their ids."""
        used = [record for record in records if self.split_of(record) is not None]
        selection = self
        named = self.validation or self.test or any(record.split for record in used)
        if self.hold_out and used and not named:
            crowds = [name for name, _ in self.crowds]
            validation, test = hold_out_speakers(
                used, share=self.hold_out, seed=self.split_seed, never=crowds
            )
            selection = replace(self, validation=validation, test=test)
        chosen = [selection.corrected(record) for record in used if selection.split_of(record) == split]
        return sorted((record for record in chosen if record is not None), key=lambda record: record.id)

    def split_of(self, record: ClipRecord) -> Split | None:
        """The part that `record` is said to belong to, None when it is not used; the seed has no say here."""
        if record.excluded:
            return None
        if self.uses and record.use not in self.uses:
            return None
        if any(part in record.source for part in self.leave_out):
            return None
        if record.speaker in self.validation:
            return "validation"
        if record.speaker in self.test:
            return "test"
        # A recipe that names people for one of both parts leaves the other to the lists.
        is_named = {"validation": bool(self.validation), "test": bool(self.test)}
        if record.split in get_args(Split) and not is_named.get(record.split, False):
            return cast(Split, record.split)
        return "train"

    def corrected(self, record: ClipRecord) -> ClipRecord | None:
        """`record` with the offset to be used, or None when the offset is too large to trust the clip."""
        if record.offset_confidence is None or record.offset_confidence < self.min_offset_confidence:
            return replace(record, offset_seconds=0.0)
        return None if abs(record.offset_seconds) > self.max_offset_seconds else record


def load_split(folder: Location, selection: DataSelection, split: Split) -> ClipSet:
    """The clips of one split of a prepared folder or address; `DataError` when there is none.

    What cannot be read is left out of the validation and test splits at once; in training it is skipped when drawn.
    """
    # The index is in the order in which videos were done; what is drawn from the clips must not depend on that.
    index = read_index(folder)
    records = selection.records(index, split)
    clips = ClipSet(folder, records)
    if not records:
        raise DataError(
            f"No clip of {folder} belongs to the {split} split: {_where_all_went(index, selection)}"
        )
    return clips if split == "train" else clips.readable()


def _where_all_went(records: Sequence[ClipRecord], selection: DataSelection) -> str:
    """What became of all clips under `selection`, and what would change it, in a sentence or two."""
    counts: dict[str, int] = {}
    for record in records:
        where = selection.split_of(record)
        if record.excluded:
            reason = "were left out by the doctor"
        elif selection.uses and record.use not in selection.uses:
            reason = (
                f"have the use {record.use!r}, which is not among data.uses ({', '.join(selection.uses)})"
            )
        elif where is None:
            reason = "are named in data.leave_out"
        elif selection.corrected(record) is None:
            reason = "are too far out of sync"
        else:
            reason = f"belong to {where}"
        counts[reason] = counts.get(reason, 0) + 1
    speakers = sorted({record.speaker for record in records})
    named = ", ".join(speakers[:5]) + (f" and {len(speakers) - 5} more" if len(speakers) > 5 else "")
    went = "; ".join(f"{count} {reason}" for reason, count in counts.items())
    return (
        f"{went}. The speakers are {named}. Change `data` in the recipe, or with --set 'data={{}}' take all clips and "
        "hold out a tenth of the speakers."
    )


class ClipSampler:
    """Draws clips so that speakers with much footage do not drown the others (weight: square root of its length)."""

    def __init__(self, clips: Sequence[Clip], crowds: Sequence[tuple[str, int]] = ()) -> None:
        self.clips = clips
        records = clips.records if isinstance(clips, ClipSet) else [clip.record for clip in clips]
        sizes = dict(crowds)
        totals: dict[str, int] = {}
        for record in records:
            totals[record.speaker] = totals.get(record.speaker, 0) + record.num_frames
        self._weights = np.array(
            [r.num_frames * np.sqrt(sizes.get(r.speaker, 1) / totals[r.speaker]) for r in records]
        )
        self._lengths = np.array([record.num_frames for record in records])

    @property
    def skipped(self) -> dict[str, int]:
        """Samples that could not be read, by reason."""
        return dict(self.clips.skips.reasons) if isinstance(self.clips, ClipSet) else {}

    def draw(
        self, rng: np.random.Generator, count: int, min_frames: int, rows: Sequence[int] | None = None
    ) -> list[Clip]:
        """`count` different clips (as far as there are as many) of at least `min_frames` frames.

        One that cannot be read is replaced by another draw: what comes out depends on the generator and the data
        alone, not on what was found damaged before. With `rows` only these of them are read and returned; the others
        are what they are without it.
        """
        usable = np.flatnonzero(self._lengths >= min_frames)
        if not len(usable):
            longest = int(self._lengths.max(initial=0))
            raise DataError(
                f"No training clip has the {min_frames} frames that the recipe asks for; the longest has {longest}."
            )
        weights = self._weights[usable] / self._weights[usable].sum()
        chosen = rng.choice(usable, count, replace=len(usable) < count, p=weights)
        seed = int(rng.integers(0, 2**63))
        return [
            self._read(int(chosen[row])) or self._substitute(seed, usable, chosen, row)
            for row in (range(count) if rows is None else rows)
        ]

    def _substitute(self, seed: int, usable: NDArray[np.intp], chosen: NDArray[np.intp], row: int) -> Clip:
        """Another clip for the unreadable one that was chosen for `row`."""
        rng = np.random.default_rng(seed)
        left = np.setdiff1d(usable, chosen)
        weights = self._weights[left]
        order = rng.choice(left, len(left), replace=False, p=weights / weights.sum()) if len(left) else left
        # First the row's own share of them, so that none comes twice; where there are too few, any.
        for number in [*order[row :: len(chosen)], *order, *rng.permutation(usable)]:
            clip = self._read(int(number))
            if clip is not None:
                return clip
        raise DataError("None of the training clips that are long enough can be read.")

    def _read(self, number: int) -> Clip | None:
        return self.clips.get(number) if isinstance(self.clips, ClipSet) else self.clips[number]


def _unit(faces: NDArray[np.uint8]) -> FloatArray:
    """uint8 → float32, 0 to 1."""
    return np.multiply(faces, np.float32(1 / 255), dtype=np.float32)


def _channels_first(faces: FloatArray) -> FloatArray:
    """(T, S, S, 3) → (T, 3, S, S)."""
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2))


def expert_starts(clip: Clip, window_frames: int) -> list[int]:
    """First column in `clip.mel` of the sound of an expert's window of `window_frames` frames from each frame on."""
    return clip.starts(expert_lead(window_frames))


def expert_windows(clip: Clip, first: int, num_frames: int, window_frames: int = EXPERT_FRAMES) -> FloatArray:
    """What an expert of `window_frames` (T_v) hears of `num_frames` frames from `first` on: one sound a window of them.

    Returns:
        float32 (num_frames − T_v + 1, 1, 80, 16).
    """
    starts = expert_starts(clip, window_frames)
    return window_batch(clip.mel, starts[first : first + max(0, num_frames - window_frames + 1)])


@dataclass(frozen=True)
class ExpertBatch:
    """Stretches of faces and the sound of each of their windows.

    Attributes:
        lower_halves: float32 (B, T, 3, S/2, S), BGR 0–1.
        windows: float32 (B, N, 1, 80, 16), one sound for each of the N = T − T_v + 1 windows.
        in_sync: bool (B, N): the sound is the window's own, not another moment's.
    """

    lower_halves: FloatArray
    windows: FloatArray
    in_sync: NDArray[np.bool_]


def expert_batch(
    sampler: ClipSampler,
    rng: np.random.Generator,
    *,
    num_clips: int,
    num_frames: int,
    faces: FaceAugmentation,
    sound: SoundAugmentation,
    window_frames: int = EXPERT_FRAMES,
    off_sync_share: float = 0.0,
    least_shift: int = 1,
    rows: Sequence[int] | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> ExpertBatch:
    """Draw `num_clips` contiguous stretches of `num_frames` frames, augmented; or only `rows` of them.

    Every window has `window_frames` frames (T_v). In a share of about `off_sync_share` of them the sound is of another
    moment, drawn from the whole clip, that begins at least `least_shift` frames earlier or later (paper, 3.3.1); in a
    clip too short for that it stays the window's own.
    """
    rows = range(num_clips) if rows is None else rows
    clips = sampler.draw(rng, num_clips, num_frames, rows)
    seeds = rng.integers(0, 2**63, num_clips)[list(rows)]

    def build(job: tuple[Clip, int]) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        clip, seed = job
        own = np.random.default_rng(seed)
        first = int(own.integers(0, len(clip) - num_frames + 1))
        size = clip.record.face_size
        motion = draw_motion(own, stored_size(size), size, faces)
        crops = np.stack([move_crop(image, motion, size) for image in clip.stored(first, num_frames)])
        halves = _unit(crops[:, size // 2 :])
        halves = roughen(own, recolour(own, halves, faces), faces)
        mel = change_sound(own, clip.mel, sound)
        starts = expert_starts(clip, window_frames)[: len(clip) - window_frames + 1]
        heard = np.arange(first, first + num_frames - window_frames + 1)
        in_sync = np.ones(len(heard), bool)
        if off_sync_share > 0:
            in_sync = own.random(len(heard)) >= off_sync_share
        for place in np.flatnonzero(~in_sync):
            far = np.flatnonzero(np.abs(np.arange(len(starts)) - heard[place]) >= least_shift)
            if len(far):
                heard[place] = own.choice(far)
            else:
                in_sync[place] = True
        return _channels_first(halves), window_batch(mel, [starts[i] for i in heard]), in_sync

    built = list((pool.map if pool else map)(build, zip(clips, seeds, strict=True)))
    return ExpertBatch(*(np.stack(part) for part in zip(*built, strict=True)))


@dataclass(frozen=True)
class GeneratorBatch:
    """What one step of the generator's training needs, B clips of T frames each.

    Attributes:
        targets: float32 (B, T, 3, S, S): the frames whose lower half is to be repainted.
        references: float32 (B, T, 3, S, S), of the form `pair` (B, T, 6, S, S): other frames of the same clip in a
            similar pose; for foreign rows of the form `frame` the target itself, as at inference.
        frame_windows: float32 (B, T, 1, 80, 16): what the generator hears at each frame.
        sync_windows: float32 (B, M, 1, 80, 16): what the expert hears; the first T − T_v + 1 belong to its windows of
            the stretch, the others are other moments of the same sound, at least two frames away from all of them.
        foreign: bool (B,): the sound is another clip's, so that the target is not the answer.
        seeds: int64 (B,): of what else is drawn for each row in the course of the step.
    """

    targets: FloatArray
    references: FloatArray
    frame_windows: FloatArray
    sync_windows: FloatArray
    foreign: NDArray[np.bool_]
    seeds: NDArray[np.int64]


def generator_batch(
    sampler: ClipSampler,
    rng: np.random.Generator,
    *,
    num_clips: int,
    num_frames: int,
    lead_seconds: Fraction,
    num_negatives: int,
    foreign_share: float,
    silence_share: float,
    least_reference_distance: int,
    num_reference_candidates: int,
    reference: ReferenceForm,
    faces: FaceAugmentation,
    sound: SoundAugmentation,
    window_frames: int = EXPERT_FRAMES,
    rows: Sequence[int] | None = None,
    pool: ThreadPoolExecutor | None = None,
) -> GeneratorBatch:
    """Draw a batch, or only `rows` of it, for an expert whose windows have `window_frames` frames (T_v).

    With references of the form `frame`, those of a stretch are a stretch too (paper, 3.4.2), chosen among a few
    candidates at least `least_reference_distance` frames away as the one most like the target in the visible upper
    half: alike in pose, not in mouth. Of the forms `steady` and `still`, the stretch has one, chosen likewise; of the
    form `pair` two, by pose and by how open their mouths are. `foreign_share` of the rows hear another clip.
    `silence_share` of the others show a pause of their clip where it has one, with a reference that speaks unless it is
    a pair. As at inference, the generator hears silence in pauses.
    """
    rows = range(num_clips) if rows is None else rows
    clips = sampler.draw(rng, num_clips, num_frames + least_reference_distance, rows)
    others = sampler.draw(rng, num_clips, num_frames + least_reference_distance, rows)
    seeds = rng.integers(0, 2**63, num_clips)[list(rows)]

    def build(job: tuple[Clip, Clip, int]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, bool]:
        clip, other, seed = job
        own = np.random.default_rng(seed)
        size = clip.record.face_size
        motion = draw_motion(own, stored_size(size), size, faces)
        first = int(own.integers(0, len(clip) - num_frames + 1))
        # By their ids: a clip that memory has no room for is another object each time that it is read.
        foreign = bool(own.random() < foreign_share) and other.record.id != clip.record.id
        speaking = clip.speaking()
        pauses = _pause_starts(speaking, num_frames)
        if not foreign and len(pauses) and own.random() < silence_share:
            first = int(own.choice(pauses))
        targets = _moved(clip, first, num_frames, motion)
        if foreign and reference == "frame":
            references = targets
        elif reference == "pair":
            two = _pair_frames(own, clip, first, num_frames, least_reference_distance)
            references = _kept_references(reference, clip, two, targets, motion)
        else:
            shift = _reference_shift(
                own, clip, first, num_frames, least_reference_distance, num_reference_candidates, speaking
            )
            if reference == "frame":
                references = _moved_references(clip, first, shift, num_frames, motion)
            else:
                one = (first + shift + num_frames // 2,)
                references = _kept_references(reference, clip, one, targets, motion)
        views = [targets, *views_of(references)]
        parts = np.split(recolour(own, _unit(np.concatenate(views)), faces), len(views))
        speech, start = (
            (other, int(own.integers(0, len(other) - num_frames + 1))) if foreign else (clip, first)
        )
        mel = change_sound(own, speech.mel, sound)
        heard = np.where(speech_activity(speech.mel)[None] > 0, mel, np.float32(SILENCE))
        frame_windows = window_batch(heard, speech.starts(lead_seconds)[start : start + num_frames])
        sync_windows = _sync_windows(own, speech, mel, start, num_frames, num_negatives, window_frames)
        return (
            _channels_first(parts[0]),
            _channels_first(np.concatenate(parts[1:], axis=-1)),
            frame_windows,
            sync_windows,
            foreign,
        )

    built = list((pool.map if pool else map)(build, zip(clips, others, seeds, strict=True)))
    targets, references, frame_windows, sync_windows, foreign = zip(*built, strict=True)
    return GeneratorBatch(
        np.stack(targets),
        np.stack(references),
        np.stack(frame_windows),
        np.stack(sync_windows),
        np.array(foreign),
        seeds,
    )


def _moved(clip: Clip, first: int, count: int, motion: CropMotion) -> NDArray[np.uint8]:
    size = clip.record.face_size
    return np.stack([move_crop(image, motion, size) for image in clip.stored(first, count)])


def _kept_references(
    form: ReferenceForm, clip: Clip, frames: Sequence[int], targets: NDArray[np.uint8], motion: CropMotion
) -> NDArray[np.uint8]:
    """What `form` shows beside each of the targets of these frames, which are kept for all of them."""
    kept = np.concatenate([_moved(clip, frame, 1, motion) for frame in frames], axis=-1)
    return placed_references(form, np.repeat(kept, len(targets), axis=0), targets)


def _moved_references(
    clip: Clip, first: int, shift: int, count: int, motion: CropMotion
) -> NDArray[np.uint8]:
    """The reference stretch, each frame moved so that its eyes lie where the target's do.

    At inference the reference lies exactly on the target, and skin can be taken over as it is; a network
    trained on references a few pixels off learns to blur instead.
    """
    size = clip.record.face_size
    references = []
    for target, image in zip(clip.stored(first, count), clip.stored(first + shift, count), strict=True):
        across = upper_shift(image, target)
        onto = motion.matrix @ np.array([[1.0, 0.0, across[0]], [0.0, 1.0, across[1]], [0.0, 0.0, 1.0]])
        references.append(move_crop(image, CropMotion(onto, motion.flip), size))
    return np.stack(references)


def _reference_shift(
    rng: np.random.Generator,
    clip: Clip,
    first: int,
    count: int,
    least: int,
    candidates: int,
    speaking: NDArray[np.bool_],
) -> int:
    """Frames from the target stretch to its reference stretch, which speaks in its middle where any does."""
    shifts = np.arange(-first, len(clip) - count - first + 1)
    shifts = shifts[np.abs(shifts) >= least]
    spoken = shifts[speaking[first + count // 2 + shifts]] if len(shifts) else shifts
    shifts = spoken if len(spoken) else shifts
    if not len(shifts):
        # A clip just long enough: the end that is further away.
        return -first if first >= len(clip) - count - first else len(clip) - count - first
    drawn = rng.choice(shifts, min(candidates, len(shifts)), replace=False)
    middle = first + count // 2
    return int(drawn[int(np.argmin(_pose_differences(clip, middle, middle + drawn)))])


def _pose_differences(clip: Clip, frame: int, others: NDArray[np.intp]) -> list[float]:
    """How unlike the upper halves of other frames are to that of `frame`."""
    target = clip.upper_thumbnail(frame)
    return [float(np.abs(clip.upper_thumbnail(int(other)) - target).mean()) for other in others]


def _pair_frames(rng: np.random.Generator, clip: Clip, first: int, count: int, least: int) -> tuple[int, int]:
    """Frames of a mouth at rest and of an open one, alike in pose to the stretch of `count` frames from `first` on.

    Sometimes both are the same frame, as at the beginning of a stream, and sometimes the first is any frame, as where
    no mouth rests.
    """
    frames = np.arange(len(clip))
    far = frames[(frames <= first - least) | (frames >= first + count - 1 + least)]
    if not len(far):  # a clip just long enough: the end that is further away
        far = np.array([0 if first >= len(clip) - count - first else len(clip) - 1])
    drawn = rng.choice(far, min(_PAIR_CANDIDATES, len(far)), replace=False)
    unlike = _pose_differences(clip, first + count // 2, drawn)
    near = drawn[np.argsort(unlike, kind="stable")[: max(1, round(_NEAR_SHARE * len(drawn)))]]
    values = [openness(clip.faces(int(frame), 1)[0]) for frame in near]
    at_rest, wide = (int(near[choice.ordered(values)[0]]) for choice in (AT_REST, OPEN))
    kind, other = rng.random(), int(rng.choice(near))
    if kind < _SAME_SHARE:
        return other, other
    return (other if kind < _SAME_SHARE + _ANY_SHARE else at_rest), wide


def _pause_starts(speaking: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """First frames of the stretches of `count` frames in which nobody speaks."""
    if len(speaking) < count:
        return np.zeros(0, np.intp)
    return np.flatnonzero(~np.lib.stride_tricks.sliding_window_view(speaking, count).any(axis=1))


def _sync_windows(
    rng: np.random.Generator,
    clip: Clip,
    mel: FloatArray,
    first: int,
    count: int,
    negatives: int,
    window_frames: int,
) -> FloatArray:
    starts = expert_starts(clip, window_frames)
    last = first + count - window_frames
    own = starts[first : last + 1]
    far = [i for i in range(len(starts)) if i < first - 1 or i > last + 1]
    if far:
        chosen = rng.choice(far, negatives, replace=len(far) < negatives)
        return window_batch(mel, own + [starts[i] for i in chosen])
    windows = np.full((len(own) + negatives, 1, NUM_MELS, WINDOW_COLUMNS), SILENCE, np.float32)
    windows[: len(own)] = window_batch(mel, own)
    return windows


def whole_clip(
    clip: Clip, max_frames: int, window_frames: int = EXPERT_FRAMES
) -> tuple[FloatArray, FloatArray]:
    """The middle of `clip` for validation by an expert whose windows have `window_frames` frames (T_v).

    Returns:
        Faces (T, 3, S, S) 0–1 as at inference, and the sounds of the windows (T − T_v + 1, 1, 80, 16).
    """
    count = min(len(clip), max_frames)
    first = (len(clip) - count) // 2
    faces = _channels_first(_unit(clip.faces(first, count)))
    return faces, expert_windows(clip, first, count, window_frames)
