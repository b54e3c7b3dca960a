"""The method on one screen: media → faces → audio → runtime → compose → media.

The stages (decode, track, generate, compose, encode) run beside one another in threads, and frames stream through them
in bounded queues: however long the video, only a few are in memory. In short videos the faces are followed some seconds
ahead of the pixels. Otherwise there are two passes: the first follows the faces and keeps one box a frame, the second
makes the pixels.
"""

import math
import os
import secrets
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.mel import mel_column_blocks, mel_spectrogram
from lipsmith.audio.voice import activity_of_level, silence_pauses, speech_activity, voice_level
from lipsmith.audio.windows import LiveWindowStream, WindowStream, look_ahead_seconds
from lipsmith.compose.detail import LentDetail, detail_side
from lipsmith.compose.paste import paste_into
from lipsmith.conditioning import NUM_REFERENCES, generator_faces, veiled, visibility
from lipsmith.errors import (
    InputError,
    LipsmithError,
    NoFaceError,
    OutputError,
    ProvenanceError,
    UsageError,
    WeightsError,
)
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import FaceDetector, SlowStarter, resolve_detector
from lipsmith.faces.live import LiveFaceTracker
from lipsmith.faces.track import CutWatch, FaceTracker, primary_box_rows, primary_boxes
from lipsmith.geometry import Box, Crop, Image
from lipsmith.media.probe import DEFAULT_RATE_HZ, MediaInfo, VideoStream, probe
from lipsmith.media.read import TimedPicture, read_pictures, read_sample_blocks
from lipsmith.media.write import EncoderOptions, VideoWriter, require_encoder, require_output
from lipsmith.picture import ArrayPicture, Picture, face_in
from lipsmith.prefetch import Prefetch, close_iterator
from lipsmith.reference import LOOK_AHEAD_SECONDS, SharpFace, Sight, kept_reference, views_of
from lipsmith.runtime.base import GeneratorRuntime, resolve_runtime
from lipsmith.timebase import SAMPLE_RATE_HZ, SILENCE, TRAINING_RATE_HZ, WINDOW_SECONDS, window_start
from lipsmith.timeline import (
    LENGTH_POLICIES,
    FrameTimes,
    Step,
    choose_policy,
    frames_in_order,
    picture_steps,
)
from lipsmith.track_file import KeptTrack, UnusableTrackError, read_track, track_key, track_path, write_track

if TYPE_CHECKING:
    from lipsmith.provenance.identity import Identity
    from lipsmith.provenance.record import SyncRecord
    from lipsmith.weights.card import WeightCard

FloatArray = NDArray[np.float32]
Floats = NDArray[np.float64]

# Frames kept for playing backwards (the length policy `bounce`).
_KEPT_BYTES = 128 * 2**20
# Frames kept while the faces run ahead, and the longest video that is worth a try: a failed one has to begin again.
_AHEAD_BYTES = 224 * 2**20
_ONE_PASS_SECONDS = 300
# Frames kept while a mouth at rest is looked for among those that come.
_COMING_BYTES = 64 * 2**20
# Frames that go through a stage together. About six times as many are in memory at once.
_BATCH_BYTES = 24 * 2**20
_LARGEST_BATCH = 8
# A face this many times as large as the generator's is visibly softer round the mouth.
_LARGE_FACE = 3.0
# Videos of fewer frames a second are shown at a usual rate.
_LEAST_RATE_HZ = 5
_PROGRESS_SECONDS = 0.1
_LOUDEST = 32.0  # of a sample: what a mix makes of full scale; more is another scale
_HEARD_AHEAD = 1024  # blocks of sound; half a minute


@dataclass(frozen=True)
class SyncOptions:
    """How to sync; the defaults suit most footage.

    Attributes:
        face: Whose mouth: None or 0 is the largest face of each shot, 1 the next, and so on.
        detector: Name in `lipsmith.faces.detect.DETECTORS`.
        runtime: Name in `lipsmith.runtime.base.RUNTIMES`.
        device: Where the runtime computes; "auto" takes the best that is present.
        threads: Most CPU threads of the runtime; None takes all cores.
        batch_size: Frames generated at once; None suits the size of the picture. Memory grows with it.
        length: What happens when the video is shorter than the sound, see `lipsmith.timeline`; a longer one is cut.
        encoder: Codec and quality of the output.
        provenance: Whether the output carries Content Credentials and a tag that say it is synthetic.
        identity: Who signs the Content Credentials; None: the identity of this machine, made when first needed.
        visible_mark: Burn a label into the picture: True for the usual words, or the words.
        audio_lead_seconds: How long before a frame the sound that it hears starts; None: what the weights were
            trained with.
        articulation: How far the mouth moves, see `lipsmith.runtime.resolve_runtime`; None: as the weights' card says.
        close_in_silence: Where nobody speaks, let the generator hear silence instead of noise.
        overwrite: Whether an existing output may be replaced. An input is never replaced.
        keep_track: Keep where the face is beside the video (`lipsmith.track_file`), and search for it only where no
            such file fits: the second speech for the same video skips the detector.
    """

    face: int | None = None
    detector: str = "mtcnn"
    runtime: str = "openvino"
    device: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    length: str = "auto"
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    provenance: bool = True
    identity: "Identity | None" = None
    visible_mark: bool | str = False
    audio_lead_seconds: Fraction | float | None = None
    articulation: float | None = None
    close_in_silence: bool = True
    overwrite: bool = False
    keep_track: bool = False

    def __post_init__(self) -> None:
        if self.length not in LENGTH_POLICIES:
            raise UsageError(
                f"No length policy {self.length!r}; choose one of: {', '.join(LENGTH_POLICIES)}."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"A batch of {self.batch_size} frames: it must be at least 1.")
        if self.face is not None and self.face < 0:
            raise UsageError(f"Face {self.face}: faces are counted from 0, the largest.")
        lead = 0.0 if self.audio_lead_seconds is None else float(self.audio_lead_seconds)
        if not abs(lead) <= 1:
            raise UsageError(
                f"An audio lead of {lead:g} seconds: it can be up to a second, and is usually about 0.04."
            )


@dataclass(frozen=True)
class Progress:
    """Where a run is: `done` of `total` frames of `stage` ("track", then "render"); None where not known."""

    stage: str
    done: int
    total: int | None
    seconds_left: float | None


@dataclass(frozen=True)
class FrameRange:
    """Frames `first` to `last` of the output, both included, and when they are shown, in seconds."""

    first: int
    last: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class SyncReport:
    """What a run did.

    Attributes:
        output: The file that was written.
        num_frames: Frames of the output.
        num_synced: Those whose mouth was generated; the others are unchanged.
        without_face: Where the unchanged ones are.
        rate: Frames a second (average, if variable).
        duration_seconds: Of the output.
        audio_seconds: Of the sound that was given.
        length: The length policy that was followed, `auto` resolved.
        face_height: Median height in pixels of the synced face's crop on screen.
        model: Name of the weights, with `model_sha256` of their file.
        runtime: Name and device, as in "openvino (cpu)".
        seconds: Work of each stage in seconds. Stages overlap: the sum may exceed `total_seconds`.
        total_seconds: From the call to the finished file.
        warnings: Sentences that a person should read.
    """

    output: Path
    num_frames: int
    num_synced: int
    without_face: list[FrameRange]
    rate: Fraction
    duration_seconds: float
    audio_seconds: float
    length: str
    face_height: int
    model: str
    model_sha256: str
    runtime: str
    seconds: dict[str, float]
    total_seconds: float
    warnings: list[str]

    @property
    def frames_per_second(self) -> float:
        """Output frames per second of the whole run."""
        return self.num_frames / max(self.total_seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """All of it in types that JSON has."""
        return asdict(self) | {
            "output": str(self.output),
            "rate": float(self.rate),
            "frames_per_second": self.frames_per_second,
        }


ProgressCallback = Callable[[Progress], None]


def sync(
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    *,
    model: str | Path = "default",
    options: SyncOptions | None = None,
    on_progress: ProgressCallback | None = None,
) -> SyncReport:
    """Make the mouth in `video` say the speech in `audio`, and write that to `output`.

    Args:
        video: A video of a talking face, or a still image.
        audio: A sound file, or a video whose sound is taken.
        output: An MP4 to write; it appears only when it is complete.
        model: Name of weights, a folder of weights, or a checkpoint file.
        options: See `SyncOptions`.
        on_progress: Called some times a second, in the calling thread. An exception in it ends the run.

    Raises:
        UsageError, InputError, OutputError, WeightsError, RuntimeUnavailableError: before any long work.
        NoFaceError: no frame has a face; nothing is written.
    """
    request = _Request.checked(video, audio, output, options or SyncOptions(), on_progress)
    options = request.options
    with request.listening() as levels:
        with request.clock.working("load"):
            syncer = LipSyncer.load(
                model,
                runtime=options.runtime,
                detector=options.detector,
                device=options.device,
                threads=options.threads,
                articulation=options.articulation,
            )
        with syncer:
            return syncer._sync(request, levels)


class LipSyncer:
    """Weights, a runtime and a detector, loaded once and used for any number of videos. A context manager.

    Several threads may use it at once; they take turns at the networks.
    """

    def __init__(self, card: "WeightCard", runtime: GeneratorRuntime, detector: FaceDetector) -> None:
        self.card = card
        self.runtime = runtime
        self.detector = detector
        self.crop_rule = CropRule(padding=card.crop_padding, face_size=runtime.face_size)
        self._one_call = Lock()  # of the runtime
        self._articulation: float | None = None  # what `load` was asked for

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        runtime: str = "openvino",
        detector: str = "mtcnn",
        device: str = "auto",
        threads: int | None = None,
        articulation: float | None = None,
    ) -> Self:
        """Find the weights called `model` (or the folder or checkpoint file), and load them.

        Raises:
            UsageError, WeightsError, RuntimeUnavailableError: unknown names, damaged weights, missing
            packages.
        """
        from lipsmith.weights import resolve

        faces = resolve_detector(detector)
        with ThreadPoolExecutor(1, "prepare") as beside:
            prepared = beside.submit(faces.prepare) if isinstance(faces, SlowStarter) else None
            card, folder = resolve(model)  # reads and verifies the weights
            generator = resolve_runtime(
                runtime,
                folder,
                device=device,
                threads=threads,
                articulation=card.articulation if articulation is None else articulation,
            )
            try:
                if generator.num_references != NUM_REFERENCES[card.reference]:
                    raise WeightsError(
                        f"The weights {card.name} see {generator.num_references} references beside the face, and their "
                        f"card says reference = {card.reference!r}: the card is wrong."
                    )
                if prepared is not None:
                    prepared.result()
            except BaseException:
                generator.close()
                raise
        syncer = cls(card, generator, faces)
        syncer._articulation = articulation
        return syncer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the runtime's memory."""
        with self._one_call:
            self.runtime.close()

    def track(
        self, frames: Iterable[Image], *, rate: Fraction = TRAINING_RATE_HZ, face: int | None = None
    ) -> list[Box | None]:
        """The box of one person's face in each of `frames` (uint8 BGR, all of one size), None where there is
        none.

        A second of frames is looked at more than once: do not write to one after giving it.

        Raises:
            UsageError: a rate that is not above 0.
            ValueError: a frame of another form.
        """
        tracker = FaceTracker(self.detector, rate=_checked_rate(rate))
        num_frames, shape = 0, None
        for image in frames:
            shape = _checked_image(image, num_frames, shape)
            tracker.add(image)
            num_frames += 1
        return primary_boxes(tracker.finish(), num_frames, face)

    def render(
        self,
        frames: Iterable[Image],
        track: Sequence[Box | None],
        samples: FloatArray,
        rate: Fraction,
        *,
        close_in_silence: bool = True,
    ) -> Iterator[Image]:
        """`frames` with the mouth in the boxes of `track` saying `samples` (mono, 16 kHz, in [-1, 1]).

        One new image for each frame, in order and in constant memory; where `track` has None, or a box that lies
        beside the frame, the frame itself. Frames are taken ahead, in another thread: do not write to them afterwards.

        Raises:
            UsageError: a rate that is not above 0.
            ValueError: a frame, or samples, of another form.
        """
        rate = _checked_rate(rate)
        (samples,) = _checked_chunks([samples])
        mel = mel_spectrogram(samples)
        if close_in_silence:
            mel = silence_pauses(mel, speech_activity(mel))
        works = self._array_works(frames, _KnownBoxes(track), rate)
        with closing(
            self._render(works, WindowStream([mel]), self._lead(None), _LARGEST_BATCH, _Clock())
        ) as rendered:
            for work in rendered:
                yield work.picture.bgr()

    def stream(
        self,
        frames: Iterable[Image],
        audio_chunks: Iterable[FloatArray],
        *,
        rate: Fraction = TRAINING_RATE_HZ,
        boxes: Iterable[Box | None] | None = None,
        face: int | None = None,
        close_in_silence: bool = True,
    ) -> Generator[Image, None, None]:
        """`frames` as they come, with the mouth saying `audio_chunks` as they come: for live use.

        A frame comes out as soon as the sound that it hears is there, which is `look_ahead_seconds` of sound after the
        frame's own time (0.1725 s, five frames of 25 a second, with the default weights) and the time that one frame
        takes to compute. Nothing works ahead: each frame and each chunk is taken when it is needed, in the calling
        thread, first the frame, then the sound up to its look-ahead. So a source that waits, such as a microphone's
        queue, makes the stream wait, and frames that arrive meanwhile must be kept by their source. Sound that ends
        early is followed by silence; with the last frame the stream ends. Closing it closes sources that are
        generators.

            frames, chunks = camera_queue(), microphone_queue()  # your own iterators
            with lipsmith.LipSyncer.load() as syncer:
                for image in syncer.stream(frames, chunks, rate=Fraction(25)):
                    show(image)

        Args:
            frames: uint8 BGR, height × width × 3, all of one size.
            audio_chunks: Mono, 16 kHz, floats in [-1, 1], (n,) each, of any lengths; the first sample sounds with the
                first frame.
            rate: Frames a second.
            boxes: The face in each frame, as `track` gives them for a recorded video that is to say live speech. None:
                the face is followed as frames come, without any delay, and less steadily than by `track`.
            face: Whose mouth if several are in sight when it begins: 0 or None is the largest.
            close_in_silence: Where nobody speaks, let the generator hear silence; told by the last ten seconds.

        Raises:
            UsageError: a rate that is not above 0.
            ValueError: a frame or a chunk of another form.
        """
        rate = _checked_rate(rate)
        tracker = (
            LiveFaceTracker(self.detector, rate=rate, face=face) if boxes is None else _KnownBoxes(boxes)
        )
        samples = _checked_chunks(audio_chunks)
        blocks = mel_column_blocks(samples)
        windows = LiveWindowStream(blocks) if close_in_silence else WindowStream(blocks)
        lead, clock = self._lead(None), _Clock()
        try:
            works = self._cropped(self._array_works(frames, tracker, rate), clock)
            with closing(self._shown(_alone(works), 1, clock)) as shown:
                for batch in shown:
                    if batch[0].box is None:  # it keeps its place in time all the same
                        windows.batch([window_start(batch[0].time, lead)])
                    (work,) = self._generate(batch, windows, lead, clock)
                    yield self._compose(work, clock, None).picture.bgr()
        finally:
            for source in (frames, audio_chunks, boxes):
                close_iterator(source)

    @property
    def look_ahead_seconds(self) -> Fraction:
        """How much sound after a frame's own time `stream` waits for, with these weights."""
        return look_ahead_seconds(self._lead(None))

    def _array_works(
        self, frames: Iterable[Image], tracker: "LiveFaceTracker | _KnownBoxes", rate: Fraction
    ) -> Iterator["_Work"]:
        shape = None
        for index, image in enumerate(frames):
            shape = _checked_image(image, index, shape)
            picture = ArrayPicture(image)
            box = self._inside(tracker.box(picture), picture)
            yield _Work(picture, index / rate, box, tracker.shot)

    def _inside(self, box: Box | None, picture: Picture) -> Box | None:
        """`box`, unless its crop lies beside the picture."""
        if box is None:
            return None
        (rows, columns), _ = self.crop_rule.crop(box).visible(picture.height, picture.width)
        return None if rows.start >= rows.stop or columns.start >= columns.stop else box

    def sync(
        self,
        video: str | Path,
        audio: str | Path,
        output: str | Path,
        *,
        options: SyncOptions | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> SyncReport:
        """See `lipsmith.sync`; what of `options` chooses weights, runtime and detector was chosen by
        `load`.

        Raises:
            UsageError: an articulation that `load` was not asked for, besides what `lipsmith.sync` raises.
        """
        options = options or SyncOptions()
        if options.articulation not in (None, self._articulation):
            raise UsageError(
                "How far the mouth moves is set when weights are loaded: "
                f"LipSyncer.load(…, articulation={options.articulation:g})."
            )
        request = _Request.checked(video, audio, output, options, on_progress)
        with request.listening() as levels:
            return self._sync(request, levels)

    def _sync(self, request: "_Request", levels: Iterable["_Level"]) -> SyncReport:
        options, clock = request.options, request.clock
        sound = _listen(request.audio, levels, options.close_in_silence)
        assert request.info.video is not None  # `checked` saw to that
        job = _Job(
            request.video,
            request.audio,
            request.output,
            options,
            request.info,
            request.info.video,
            sound,
            _identity(options),
            _label(options.visible_mark, request.info.video),
            clock,
            _Reporter(request.on_progress),
        )
        known = _known_faces(job, self._track_settings(options)) if options.keep_track else None
        done: _Done | None = None
        if known is not None and known.track is not None:
            done = self._in_last_pass(job, self._survey(job, known.track))
        elif _suits_one_pass(job):
            with suppress(_UndecidedError):
                done = self._in_one_pass(job)
        if done is None:
            done = self._in_two_passes(job)
        if known is not None and known.track is None:
            _keep_faces(job, known, done.survey)
        survey, plan = done.survey, done.plan
        without_face = _ranges_without_face(plan, survey)
        num_synced = _num_synced(plan, without_face)
        return SyncReport(
            output=job.output,
            num_frames=plan.num_frames,
            num_synced=num_synced,
            without_face=without_face,
            rate=_shown_rate(survey.picture),
            duration_seconds=float(plan.duration),
            audio_seconds=float(sound.duration),
            length=plan.policy,
            face_height=survey.face_height,
            model=self.card.name,
            model_sha256=self.card.sha256,
            runtime=f"{self.runtime.name} ({self.runtime.device})",
            seconds=clock.seconds,
            total_seconds=time.perf_counter() - request.start,
            warnings=[
                *self._warnings(without_face, plan.num_frames, num_synced, survey, sound),
                *job.notes,
                *_leftovers(job),
            ],
        )

    def _in_two_passes(self, job: "_Job") -> "_Done":
        """First the faces of the whole video, then its pixels: right for every video, and each is decoded twice."""
        picture = job.picture
        if not job.info.is_image:  # else it is found out at once
            require_encoder(
                job.output,
                job.options.encoder,
                width=picture.width,
                height=picture.height,
                rate=_shown_rate(picture),
            )
        scout = _Scout(picture, self.detector, self.crop_rule, job.options.face)
        num_frames = picture.num_frames
        most = int(job.sound.duration * picture.rate) + 1
        job.progress.begin("track", None if num_frames is None else min(num_frames, most))
        with closing(self._scouted(job, scout)) as frames:
            for _ in frames:
                job.progress.show(len(scout.times))
        with job.clock.working("track"):
            survey = scout.finish(job)
        return self._in_last_pass(job, survey)

    def _in_last_pass(self, job: "_Job", survey: "_Survey") -> "_Done":
        """The pixels of a video whose faces are known."""
        plan = _plan(survey, job.sound.duration, job.options.length)
        done = _Done(survey, plan)
        works = self._planned_frames(job, survey, plan)
        self._write(job, works, plan.num_frames, plan.duration, plan.has_variable_rate, lambda: done)
        return done

    def _track_settings(self, options: SyncOptions) -> dict[str, Any]:
        """What decides about boxes, besides the video."""
        detector = self.detector
        values = (
            {entry.name: getattr(detector, entry.name) for entry in fields(detector)}
            if is_dataclass(detector)
            else {"name": detector.name}
        )
        values.pop("threads", None)
        return {"detector": values, "face": options.face or 0}

    def _survey(self, job: "_Job", track: KeptTrack) -> "_Survey":
        """Of a kept track, what a scout would have seen up to the end of the sound.

        Raises:
            NoFaceError: no frame has the face.
        """
        times = track.times
        until = track.until
        num_frames = max(1, bisect_left(times, job.sound.duration))
        if num_frames < len(times):
            times, until = times[:num_frames], job.sound.duration
        starts = [start for start in track.shot_starts if start < num_frames]
        found = track.boxes[:num_frames]
        return _surveyed(
            job, self.crop_rule, times, found, starts, track.frame_bytes, track.has_others, until
        )

    def _in_one_pass(self, job: "_Job") -> "_Done":
        """The faces run ahead of the pixels by a few seconds of frames, which are kept: each is decoded once.

        Raises:
            _UndecidedError: whose face it is shows only later than that, or the frames between are too large to be
                kept; nothing is written.
        """
        scout = _Scout(job.picture, self.detector, self.crop_rule, job.options.face)
        if scout.num_frames_ahead * _frame_bytes(job.picture) > _AHEAD_BYTES:
            raise _UndecidedError
        done: list[_Done] = []
        # The output ends with the sound: the video goes on by itself or by the length policy.
        total = max(1, math.ceil(job.sound.duration * job.picture.rate - Fraction(1, 2)))
        works = self._frames_behind(job, scout, done.append)
        self._write(job, works, total, job.sound.duration, False, lambda: done[0])
        return done[0]

    def _frames_behind(
        self, job: "_Job", scout: "_Scout", on_done: Callable[["_Done"], None]
    ) -> Generator["_Work", None, None]:
        """The frames of the output before anything is changed, as soon as their faces are settled."""
        end = job.sound.duration - 1 / job.picture.rate / 2  # as `picture_steps` has it
        held: deque[TimedPicture] = deque()
        last: TimedPicture | None = None
        num_shown = 0

        def settled(rows: Floats) -> Iterator[_Work]:
            nonlocal last, num_shown
            for row in rows:
                last = held.popleft()
                if last.time < end or last.index == 0:
                    num_shown += 1
                    yield _Work(last.picture, last.time, _box(row), scout.shot(last.index))

        with closing(self._scouted(job, scout)) as frames:
            for frame in frames:
                if frame.time * job.picture.rate != frame.index:
                    raise _UndecidedError  # the writer was promised a constant rate
                held.append(frame)
                with job.clock.working("track"):
                    rows = scout.settled()
                yield from settled(rows)
                if len(held) > 1 and len(held) * frame.picture.nbytes > _AHEAD_BYTES:
                    raise _UndecidedError
        with job.clock.working("track"):
            survey = scout.finish(job)
        yield from settled(survey.boxes[len(scout.times) - len(held) :])
        plan = _plan(survey, job.sound.duration, job.options.length)
        on_done(_Done(survey, plan))
        kept = [] if last is None else [last]
        yield from self._planned_frames(job, survey, plan, num_shown, kept)

    def _scouted(self, job: "_Job", scout: "_Scout") -> Generator[TimedPicture, None, None]:
        """The frames of the video up to the end of the sound, each of them seen by `scout`."""
        frames: Iterator[TimedPicture]
        with Prefetch(job.clock.timed("decode", read_pictures(job.video)), 4, "decode") as frames:
            for frame in frames:
                if frame.time >= job.sound.duration:
                    scout.until = job.sound.duration
                    break
                with job.clock.working("track"):
                    scout.add(frame)
                yield frame

    def _write(
        self,
        job: "_Job",
        works: Generator["_Work", None, None],
        num_frames: int,
        duration: Fraction,
        has_variable_rate: bool,
        done: Callable[[], "_Done"],
    ) -> None:
        """Generate, compose and encode about `num_frames`; `done` is asked when all are encoded."""
        metadata, finalize = {}, None
        if job.identity is not None:
            metadata = _container_metadata(self._record(job, 0, 0))  # tags tell no numbers
            finalize = _signer(job, lambda: self._record(job, *_counts(done())))
        heard = job.sound.heard(read_sample_blocks(job.audio))
        frame_bytes = job.picture.width * job.picture.height * 3
        rendered = self._render(
            works,
            WindowStream(heard),
            self._lead(job.options),
            job.options.batch_size or max(1, min(_LARGEST_BATCH, _BATCH_BYTES // frame_bytes)),
            job.clock,
            job.mark,
        )
        job.progress.begin("render", num_frames)
        num_written = 0
        with (
            closing(heard),
            closing(rendered),
            VideoWriter(
                job.output,
                width=job.picture.width,
                height=job.picture.height,
                rate=_shown_rate(job.picture),
                audio=job.audio,
                duration=duration,
                options=job.options.encoder,
                metadata=metadata,
                finalize=finalize,
                colour=job.picture.colour,
                pixel_aspect=job.picture.pixel_aspect,
                variable_rate=has_variable_rate,
            ) as writer,
        ):
            for work in rendered:
                with job.clock.working("encode"):
                    writer.write(work.picture, work.time)
                num_written += 1
                job.progress.show(num_written)
            if num_written < done().plan.num_frames:
                raise InputError(
                    f"{job.video} gave only {num_written} of {done().plan.num_frames} frames when read again: "
                    "did it change meanwhile?"
                )

    def _planned_frames(
        self,
        job: "_Job",
        survey: "_Survey",
        plan: "_Plan",
        first: int = 0,
        kept: Iterable[TimedPicture] = (),
    ) -> Generator["_Work", None, None]:
        """The frames of the output from its frame `first` on, before anything is changed, in order."""

        def read() -> Iterator[TimedPicture]:
            return job.clock.timed("decode", read_pictures(job.video))

        steps = islice(plan.steps(), first, None)
        with closing(frames_in_order(read, steps, plan.num_kept, kept)) as frames:
            for frame, step in frames:
                yield _Work(frame.picture, step.time, survey.box(step.index), survey.shot(step.index))

    def _lead(self, options: SyncOptions | None) -> Fraction:
        if options is not None and options.audio_lead_seconds is not None:
            return Fraction(options.audio_lead_seconds)
        return Fraction(self.card.window_lead_seconds)

    def _render(
        self,
        works: Iterable["_Work"],
        windows: WindowStream,
        lead: Fraction,
        batch_size: int,
        clock: "_Clock",
        mark: Callable[[Image], Image] | None = None,
    ) -> Generator["_Work", None, None]:
        """Second pass: each of `works` with its image composed. The caller encodes in its own thread."""
        with (
            Prefetch(works, 2, "frames") as sourced,
            Prefetch(
                self._shown(_looking_ahead(self._cropped(sourced, clock)), batch_size, clock), 1, "crop"
            ) as shown,
            Prefetch(
                (self._generate(batch, windows, lead, clock) for batch in shown), 1, "generate"
            ) as faces,
            Prefetch(
                (self._compose(work, clock, mark) for batch in faces for work in batch), 2, "compose"
            ) as done,
        ):
            yield from done

    def _cropped(self, works: Iterable["_Work"], clock: "_Clock") -> Generator["_Work", None, None]:
        """Frames with their faces."""
        try:
            for work in works:
                if work.box is not None:
                    with clock.working("crop"):
                        work.crop = self.crop_rule.crop(work.box)
                        work.shown = work.reference = face_in(work.picture, work.crop)
                        work.sight = Sight(work.shown, _sharp(work.picture, work.crop))
                yield work
        finally:
            close_iterator(works)

    def _shown(
        self,
        works: Generator[tuple["_Work", Sequence["_Work"]], None, None],
        batch_size: int,
        clock: "_Clock",
    ) -> Generator[list["_Work"], None, None]:
        """Batches of frames, with what the generator sees of those that have a face; each comes with those after it."""
        kept = kept_reference(self.card.reference)
        shot = 0
        with closing(works):
            while batch := list(islice(works, batch_size)):
                for work, coming in batch:
                    sight, work.sight = work.sight, None  # it holds the frame as it came
                    if sight is None or kept is None:
                        continue
                    with clock.working("crop"):
                        if work.shot != shot:
                            kept.reset()
                        shot = work.shot
                        ahead = [other.sight for other in coming if other.shot == shot and other.sight]
                        work.reference = kept.show(sight.face, sight.sharp, ahead)
                        work.lent = kept.lent
                yield [work for work, _ in batch]

    def _generate(
        self, batch: list["_Work"], windows: WindowStream, lead: Fraction, clock: "_Clock"
    ) -> list["_Work"]:
        """Generate the faces of those frames of a batch that have one."""
        with_face = [work for work in batch if work.shown is not None and work.reference is not None]
        if with_face:
            with clock.working("listen"):
                mels = windows.batch([window_start(work.time, lead) for work in with_face])
            with clock.working("generate"):
                shown = to_network([work.shown for work in with_face if work.shown is not None])
                references = to_network([work.reference for work in with_face if work.reference is not None])
                seen = visibility(shown)
                faces = generator_faces(shown, references, seen)
                with self._one_call:
                    generated = self.runtime.generate(mels, faces)
                generated = veiled(generated, seen)
                for work, face in zip(with_face, generated, strict=True):
                    work.generated = np.clip(face.transpose(1, 2, 0), 0, 1) * np.float32(255)
        return batch

    def _compose(self, work: "_Work", clock: "_Clock", mark: Callable[[Image], Image] | None) -> "_Work":
        with clock.working("compose"):
            if (
                work.generated is not None
                and work.crop is not None
                and work.shown is not None
                and work.reference is not None
            ):
                # A new picture: the same frame may be shown again later.
                work.picture = paste_into(
                    work.picture,
                    work.crop,
                    work.generated,
                    work.shown,
                    views_of(work.reference) if self.card.reference != "frame" else (),
                    self.card.paints,
                    work.lent,
                )
                work.generated = work.shown = work.reference = None
                work.lent = ()
            if mark is not None:
                work.picture = ArrayPicture(mark(work.picture.bgr()))
        return work

    def _record(self, job: "_Job", num_changed: int, num_unchanged: int) -> "SyncRecord":
        from lipsmith.provenance.record import SyncRecord

        return SyncRecord(
            model=self.card.name,
            model_sha256=self.card.sha256,
            source_video=job.video.name,
            source_audio=job.audio.name,
            num_frames_changed=num_changed,
            num_frames_unchanged=num_unchanged,
        )

    def _warnings(
        self,
        without_face: list[FrameRange],
        num_frames: int,
        num_synced: int,
        survey: "_Survey",
        sound: "_Sound",
    ) -> list[str]:
        warnings = []
        if without_face:
            where = ", ".join(
                f"{part.start_seconds:.1f}–{part.end_seconds:.1f} s" for part in without_face[:5]
            )
            more = f" and {len(without_face) - 5} more places" if len(without_face) > 5 else ""
            warnings.append(
                f"No face in {num_frames - num_synced} of {num_frames} frames ({where}{more}): "
                "they are unchanged."
            )
        if survey.face_height > _LARGE_FACE * self.runtime.face_size:
            warnings.append(
                f"The face is {survey.face_height} pixels high on screen and {self.runtime.face_size} in the "
                "model: the mouth will be softer than the rest. Weights with a larger face size would help."
            )
        if sound.is_silent:
            warnings.append("No speech was found in the sound: the mouth stays closed throughout.")
        return warnings


def _sharp(picture: Picture, crop: Crop) -> SharpFace:
    """The face at the resolution at which it lends its detail, made when it is asked for."""
    sharp = replace(crop, size=detail_side(crop.width, crop.height, crop.size))
    return partial(face_in, picture, sharp)


def _alone(works: Iterator["_Work"]) -> Generator[tuple["_Work", Sequence["_Work"]], None, None]:
    """Each frame as if none came after it: a live one cannot wait."""
    try:
        for work in works:
            yield work, ()
    finally:
        close_iterator(works)


def _looking_ahead(works: Iterator["_Work"]) -> Generator[tuple["_Work", Sequence["_Work"]], None, None]:
    """Each frame with those of the next `LOOK_AHEAD_SECONDS`, as far as `_COMING_BYTES` can hold them."""
    coming: deque[_Work] = deque()
    is_over = False
    try:
        while True:
            while not is_over and (
                len(coming) < 2
                or (
                    coming[-1].time - coming[0].time < LOOK_AHEAD_SECONDS
                    and len(coming) * coming[0].picture.nbytes < _COMING_BYTES
                )
            ):
                work = next(works, None)
                if work is None:
                    is_over = True
                else:
                    coming.append(work)
            if not coming:
                return
            yield coming.popleft(), tuple(coming)
    finally:
        close_iterator(works)


def to_network(crops: Sequence[NDArray[np.uint8]]) -> FloatArray:
    """Crops, each S × S × 3 (or 6) uint8 BGR, as the networks see them: (n, 3, S, S) float32, 0 to 1."""
    return np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


class _KnownBoxes:
    """Boxes that were found before, with the cuts between the frames: what was kept of a face ends with its shot."""

    def __init__(self, boxes: Iterable[Box | None]) -> None:
        self.shot = 1
        self._boxes = iter(boxes)
        self._cuts = CutWatch()

    def box(self, picture: Picture) -> Box | None:
        """The box in the next frame; None where there is none, and behind the last one."""
        self.shot += self._cuts.is_cut(picture)
        return next(self._boxes, None)


def _checked_rate(rate: Fraction) -> Fraction:
    if not rate > 0:
        raise UsageError(f"A rate of {rate} frames a second: it must be above 0.")
    return Fraction(rate)


def _checked_image(image: Image, index: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of a frame; that of the one before is `shape`."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or shape not in (None, image.shape):
        wanted = "height × width × 3" if shape is None else " × ".join(map(str, shape))
        raise ValueError(
            f"frame {index} is {image.dtype} {' × '.join(map(str, image.shape))}; it must be uint8 BGR {wanted}"
        )
    return image.shape


def _checked_chunks(chunks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    for index, chunk in enumerate(chunks):
        if chunk.ndim != 1 or not np.issubdtype(chunk.dtype, np.floating):
            raise ValueError(
                f"chunk {index} of the sound is {chunk.dtype} {' × '.join(map(str, chunk.shape))}; it must be mono "
                "floats from -1 to 1, (n,): divide 16-bit samples by 32768"
            )
        peak = np.abs(chunk).max(initial=0)
        if not peak <= _LOUDEST:  # nor is what is no number
            raise ValueError(
                f"chunk {index} of the sound reaches {peak:g}; it must be mono floats from -1 to 1: divide 16-bit "
                "samples by 32768"
            )
        yield chunk


@dataclass(slots=True)
class _Work:
    """One frame on its way through the second pass."""

    picture: Picture
    time: Fraction
    box: Box | None
    shot: int = 0
    crop: Crop | None = None
    sight: Sight | None = None  # its face, until its reference is known
    shown: Image | None = None  # the same, and
    reference: NDArray[np.uint8] | None = None  # what the generator sees beside it, S × S × 3, or 6 of two
    lent: Sequence[LentDetail] = ()  # of the frames that this was made of
    generated: FloatArray | None = None  # what it returns, S × S × 3 in grey levels


@dataclass(frozen=True, slots=True)
class _Sound:
    """What listening once learnt: how long the sound lasts, and where somebody speaks (None: not asked)."""

    duration: Fraction
    activity: FloatArray | None
    is_silent: bool

    def heard(self, blocks: Iterable[FloatArray]) -> Generator[FloatArray, None, None]:
        """The mel that the generator hears, in blocks of columns, of the same samples in `blocks`."""
        position = 0
        for mel in mel_column_blocks(blocks):
            if self.activity is not None:
                activity = self.activity[position : position + mel.shape[1]]
                position += mel.shape[1]
                mel = silence_pauses(mel[:, : len(activity)], activity)
            yield mel


class _Level(NamedTuple):
    """What there is to know of a piece of the sound before the whole is known."""

    num_samples: int  # up to here
    loudest: float  # of the mel
    voice: FloatArray  # how loud the voice bands are, for each column


@dataclass(frozen=True)
class _Request:
    """What a call of `sync` asks for, found to be possible so far."""

    video: Path
    audio: Path
    output: Path
    options: SyncOptions
    info: MediaInfo
    on_progress: ProgressCallback | None
    start: float
    clock: "_Clock"

    @classmethod
    def checked(
        cls,
        video: str | Path,
        audio: str | Path,
        output: str | Path,
        options: SyncOptions,
        on_progress: ProgressCallback | None,
    ) -> Self:
        """See `_check`."""
        start = time.perf_counter()
        info = _check(Path(video), Path(audio), Path(output), options)
        return cls(Path(video), Path(audio), Path(output), options, info, on_progress, start, _Clock())

    def listening(self) -> Prefetch[_Level]:
        """Listens to the sound while the networks are loaded."""
        return Prefetch(self.clock.timed("listen", _levels(self.audio)), _HEARD_AHEAD, "listen")


@dataclass(frozen=True)
class _Job:
    """One call of `sync`: what was asked for, what is known of it, and what counts the time."""

    video: Path
    audio: Path
    output: Path
    options: SyncOptions
    info: MediaInfo
    picture: VideoStream
    sound: _Sound
    identity: "Identity | None"
    mark: Callable[[Image], Image] | None
    clock: "_Clock"
    progress: "_Reporter"
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Done:
    """What is known in the end."""

    survey: "_Survey"
    plan: "_Plan"


class _UndecidedError(Exception):
    """Whose face it is cannot be told in one pass."""


class _Scout:
    """Goes ahead through the frames and follows the faces; what it sees becomes a `_Survey`."""

    def __init__(
        self, picture: VideoStream, detector: FaceDetector, rule: CropRule, face: int | None
    ) -> None:
        self.times = FrameTimes()
        self._picture, self._rule, self._face = picture, rule, face
        self._tracker = FaceTracker(detector, rate=picture.rate, pixel_aspect=picture.pixel_aspect)
        self._frame_bytes = 1
        self._held: Floats = np.full((0, 4), np.nan)
        self._settled: list[Floats] = []
        self.until: Fraction | None = None  # where in the video it stopped looking; None: nowhere

    @property
    def num_frames_ahead(self) -> int:
        """Frames that are seen before the first of them is settled."""
        return math.ceil(self._tracker.look_ahead * self._picture.rate)

    def add(self, frame: TimedPicture) -> None:
        """See the next frame."""
        self.times.append(frame.time)
        self._frame_bytes = frame.picture.nbytes
        self._tracker.add(frame.picture, frame.index)

    def settled(self) -> Floats:
        """Boxes of the next frames that are known for certain, or will be found wrong by `finish`.

        None come before a face does: a video without any is not worth a beginning.

        Raises:
            _UndecidedError: what came before was another person's than now seems right.
        """
        self._held = np.concatenate([self._held, self._visible(self._tracker.settled())])
        if not self._settled and np.isnan(self._held).all():
            return self._held[:0]
        if self._tracker.is_overruled:
            raise _UndecidedError
        rows, self._held = self._held, self._held[:0]
        if len(rows):
            self._settled.append(rows)
        return rows

    def shot(self, index: int) -> int:
        """Number of the shot that frame `index` is in."""
        return bisect_right(self._tracker.shot_starts, index)

    def finish(self, job: _Job) -> "_Survey":
        """What was seen, when no frame is left.

        Raises:
            InputError: the video has no frames.
            NoFaceError: no frame has the face.
            _UndecidedError: what `settled` said was wrong.
        """
        if not self.times:
            raise InputError(f"The video stream of {job.video} has no frames; give a video with a picture.")
        tracks = self._tracker.finish()
        survey = _surveyed(
            job,
            self._rule,
            self.times,
            primary_box_rows(tracks, len(self.times), self._face),
            self._tracker.shot_starts,
            self._frame_bytes,
            bool(tracks),
            self.until,
        )
        settled = np.concatenate(self._settled) if self._settled else survey.boxes[:0]
        if not np.allclose(settled, survey.boxes[: len(settled)], rtol=0, atol=1e-3, equal_nan=True):
            raise _UndecidedError
        return survey

    def _visible(self, boxes: Floats) -> Floats:
        return _visible(boxes, self._rule, self._picture)


def _surveyed(
    job: _Job,
    rule: CropRule,
    times: FrameTimes,
    found: Floats,
    shot_starts: list[int],
    frame_bytes: int,
    has_others: bool,
    until: Fraction | None,
) -> "_Survey":
    """What is known of a video in which a face was `found`, (n, 4).

    Raises:
        NoFaceError: no frame has the face.
    """
    boxes = _visible(found, rule, job.picture)
    faces = [box for row in boxes if (box := _box(row)) is not None]
    if not faces:
        face = job.options.face
        raise NoFaceError(_no_face_message(job.info, len(times), times[-1], face, has_others))
    height = round(float(np.median([rule.crop(box).height for box in faces])))
    return _Survey(job.picture, times, boxes, shot_starts, frame_bytes, height, found, has_others, until)


def _visible(boxes: Floats, rule: CropRule, picture: VideoStream) -> Floats:
    """`boxes`, those left out whose crop lies beside the picture; the same array if none does."""
    hidden = []
    for index in np.flatnonzero(~np.isnan(boxes[:, 0])).tolist():
        (rows, columns), _ = rule.crop(Box(*boxes[index].tolist())).visible(picture.height, picture.width)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            hidden.append(index)
    if hidden:
        boxes = boxes.copy()
        boxes[hidden] = np.nan
    return boxes


def _box(row: Floats) -> Box | None:
    left, top, right, bottom = row.tolist()
    return None if math.isnan(left) else Box(left, top, right, bottom)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the first pass learnt: the time of each frame, the face in it, where shots begin, and sizes.

    What there is for every frame is in arrays: Python objects would take 300 bytes a frame.
    """

    picture: VideoStream
    times: FrameTimes
    boxes: NDArray[np.float64]  # (n, 4): left, top, right, bottom in pixels; NaN where there is no face
    shot_starts: list[int]
    frame_bytes: int
    face_height: int
    found: NDArray[np.float64]  # `boxes` with those whose crop lies beside the picture
    has_others: bool  # whether there are other faces
    until: Fraction | None  # seconds of the video that were looked at; None: all of it

    def shot(self, index: int) -> int:
        """Number of the shot that frame `index` is in."""
        return bisect_right(self.shot_starts, index)

    def box(self, index: int) -> Box | None:
        """The face in frame `index`, if there is one."""
        return _box(self.boxes[index])


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which frame is shown when, for how long in all, and how many are kept for going backwards."""

    steps: Callable[[], Iterator[Step]]  # anew each time: a list of them would grow with length
    num_frames: int
    policy: str
    duration: Fraction
    num_kept: int
    has_variable_rate: bool


@dataclass(frozen=True, slots=True)
class _KnownFaces:
    """The file beside the video for what is found in it, its key, and what it holds, if that can be used."""

    path: Path
    key: str
    track: KeptTrack | None


def _known_faces(job: _Job, settings: dict[str, Any]) -> _KnownFaces | None:
    """What is kept beside a video; None for a still image, which is not worth it."""
    if job.info.is_image:
        return None
    path, key = track_path(job.video), track_key(job.video, settings)
    try:
        track = read_track(path, key)
        if track is not None and track.until is not None and track.until < job.sound.duration:
            raise UnusableTrackError("ends before the speech does")
    except UnusableTrackError as error:
        job.notes.append(f"The kept track {path} {error}: the face was searched for again.")
        track = None
    return _KnownFaces(path, key, track)


def _keep_faces(job: _Job, known: _KnownFaces, survey: _Survey) -> None:
    track = KeptTrack(
        survey.times, survey.found, survey.shot_starts, survey.frame_bytes, survey.has_others, survey.until
    )
    try:
        write_track(known.path, known.key, track)
    except OSError as error:
        job.notes.append(f"The track could not be kept in {known.path}: {error.strerror or error}.")


def _plan(survey: _Survey, audio_seconds: Fraction, wanted_policy: str) -> _Plan:
    num_kept = max(1, _KEPT_BYTES // survey.frame_bytes)
    frame_seconds = 1 / _shown_rate(survey.picture)
    # Of a video that was looked at no further than to the end of the sound, the last frame may be shown till there.
    video_seconds = max(survey.times[-1] + 1 / survey.picture.rate, survey.until or Fraction(0))
    policy = choose_policy(wanted_policy, len(survey.times), num_kept, audio_seconds - video_seconds)
    duration = min(audio_seconds, video_seconds) if policy == "cut" else audio_seconds

    def steps() -> Iterator[Step]:
        return picture_steps(survey.times, frame_seconds, duration, policy, video_seconds)

    num_frames = sum(1 for _ in steps())
    has_variable_rate = any(step.time != place * frame_seconds for place, step in enumerate(steps()))
    return _Plan(
        steps, num_frames, policy, duration, num_kept if policy == "bounce" else 1, has_variable_rate
    )


def _levels(path: Path) -> Iterator[_Level]:
    """Listen to a file for the first time, for what needs the whole of it; the mel is made again as it is needed."""
    num_samples = 0

    def counted() -> Iterator[FloatArray]:
        nonlocal num_samples
        for block in read_sample_blocks(path):
            num_samples += len(block)
            yield block

    for mel in mel_column_blocks(counted()):
        yield _Level(num_samples, float(mel.max()), voice_level(mel))
    yield _Level(num_samples, SILENCE, np.zeros(0, np.float32))


def _listen(path: Path, levels: Iterable[_Level], close_in_silence: bool) -> _Sound:
    num_samples, loudest = 0, SILENCE
    voice = array("f")
    for level in levels:
        num_samples = level.num_samples
        loudest = max(loudest, level.loudest)
        voice.frombytes(level.voice.tobytes())
    duration = Fraction(num_samples, SAMPLE_RATE_HZ)
    if duration < WINDOW_SECONDS:
        raise InputError(
            f"The sound of {path} lasts {float(duration):.2f} s; at least {float(WINDOW_SECONDS)} s "
            "are needed."
        )
    if not close_in_silence:
        return _Sound(duration, None, loudest <= SILENCE)
    activity = activity_of_level(np.frombuffer(voice, np.float32))
    return _Sound(duration, activity, not activity.any())


def _label(wanted: bool | str, picture: VideoStream) -> Callable[[Image], Image] | None:
    """What burns the visible mark into a frame, if it is wanted."""
    if wanted is False:
        return None
    from lipsmith.provenance.visible import DEFAULT_LABEL, VisibleMark

    mark = VisibleMark(picture.width, picture.height, text=DEFAULT_LABEL if wanted is True else wanted)
    return lambda image: mark.apply(image.copy())


def _identity(options: SyncOptions) -> "Identity | None":
    """Who signs; made before long work, because making it can fail."""
    if not options.provenance or options.identity is not None:
        return options.identity if options.provenance else None
    from lipsmith.provenance.identity import load_or_create_identity

    return load_or_create_identity()


def _container_metadata(record: "SyncRecord") -> dict[str, str]:
    from lipsmith.provenance.container import container_metadata

    return container_metadata(record)


def _signer(job: _Job, record: Callable[[], "SyncRecord"]) -> Callable[[Path], Callable[[], None]]:
    """What the writer calls with the finished, still hidden file; adds to the job's notes what a person should know."""
    from lipsmith.provenance.content_credentials import sign

    assert job.identity is not None
    identity = job.identity

    def finalize(path: Path) -> Callable[[], None]:
        try:
            with job.clock.working("sign"):
                signature = sign(
                    path, record(), parent=job.video, speech=job.audio, identity=identity, output=job.output
                )
        except Exception as error:  # whatever it is, it is not to cost the work that was done
            raise _not_signed(path, job.output, error) from error
        job.notes.extend(signature.notes)
        if signature.sidecar is not None:
            job.notes.append(
                f"{job.output.suffix} files cannot carry Content Credentials: they are in {signature.sidecar}."
            )
        return signature.place

    return finalize


def _not_signed(finished: Path, output: Path, error: Exception) -> LipsmithError:
    """The error to raise, once the finished video was put beside `output` under a name that says what it lacks."""
    kind = type(error) if isinstance(error, LipsmithError) else ProvenanceError
    words = str(error)
    if not isinstance(error, LipsmithError):
        words = f"{output} could not be signed ({type(error).__name__}: {error})."
    kept = output.with_name(f"{output.stem}.unsigned{output.suffix}")
    if os.path.lexists(kept):
        kept = output.with_name(f"{output.stem}.unsigned-{secrets.token_hex(4)}{output.suffix}")
    with suppress(OSError):
        finished.rename(kept)
        words += f" The finished video is kept without Content Credentials, as {kept}; its tag says it is synthetic."
    return kind(words)


def _leftovers(job: _Job) -> list[str]:
    """A warning of Content Credentials of an earlier file beside an output that has none of its own."""
    from lipsmith.provenance.content_credentials import sidecar_path

    beside = sidecar_path(job.output)
    if job.identity is not None or not beside.exists():
        return []
    return [f"{beside} does not fit this output, which is not signed: if it is of an earlier one, delete it."]


def _suits_one_pass(job: _Job) -> bool:
    """Whether a video can be tried in one pass: nothing has to be known of its end, and little is lost if it fails."""
    picture = job.picture
    return (
        not job.info.is_image
        and job.options.length != "cut"
        and not job.options.face
        and picture.rate == _shown_rate(picture)
        and picture.variable_rate is False  # else only a pass tells the encoder what rate to promise
        and min(job.sound.duration, picture.duration or job.sound.duration) <= _ONE_PASS_SECONDS
    )


def _shown_rate(picture: VideoStream) -> Fraction:
    """Frames a second of the output: no mouth can speak in a slide show, whose pictures are shown again and again."""
    return picture.rate if picture.rate >= _LEAST_RATE_HZ else DEFAULT_RATE_HZ


def _frame_bytes(picture: VideoStream) -> int:
    """About what a decoded frame takes in memory."""
    is_planar = picture.pixel_format == "yuv420p" and not picture.rotation
    return picture.width * picture.height * 3 // (2 if is_planar else 1)


def _num_synced(plan: "_Plan", without_face: list[FrameRange]) -> int:
    return plan.num_frames - sum(part.last + 1 - part.first for part in without_face)


def _counts(done: _Done) -> tuple[int, int]:
    """Frames that were changed, and that were not."""
    num_synced = _num_synced(done.plan, _ranges_without_face(done.plan, done.survey))
    return num_synced, done.plan.num_frames - num_synced


def _check(video: Path, audio: Path, output: Path, options: SyncOptions) -> MediaInfo:
    """Everything that can be found wrong before long work; what `probe` says of the video."""
    for source, name in ((video, "video"), (audio, "sound")):
        if _is_same_file(output, source):
            raise OutputError(f"The output {output} is the {name} itself; choose another name.")
    require_output(output)
    for path, name in ((output, "output"), (_sidecar(output, options), "file for its Content Credentials")):
        if path is not None and os.path.lexists(path) and not options.overwrite:
            raise OutputError(
                f"The {name} {path} exists already; choose another name, or let it be replaced: "
                "--force, or `overwrite` in Python."
            )
    info = probe(video)
    if info.video is None:
        raise InputError(f"{video} has no picture, only sound; give a video or an image.")
    if probe(audio).audio is None:
        raise InputError(f"{audio} has no sound; give a sound file, or a video with sound.")
    return info


def _sidecar(output: Path, options: SyncOptions) -> Path | None:
    """The file beside `output` that its Content Credentials will be in, if there will be one."""
    from lipsmith.provenance.content_credentials import can_embed, sidecar_path

    return sidecar_path(output) if options.provenance and not can_embed(output) else None


def _is_same_file(one: Path, other: Path) -> bool:
    """Also through symbolic and hard links."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def _ranges_without_face(plan: _Plan, survey: _Survey) -> list[FrameRange]:
    ranges = []
    start: tuple[int, Fraction] | None = None  # of the range that goes on
    for place, step in enumerate(plan.steps()):
        missing = survey.box(step.index) is None
        if missing and start is None:
            start = place, step.time
        elif start is not None and not missing:
            ranges.append(FrameRange(start[0], place - 1, float(start[1]), float(step.time)))
            start = None
    if start is not None:
        ranges.append(FrameRange(start[0], plan.num_frames - 1, float(start[1]), float(plan.duration)))
    return ranges


def _no_face_message(
    info: MediaInfo, num_frames: int, last_time: Fraction, face: int | None, has_others: bool
) -> str:
    if has_others and face:
        return (
            f"{info.path} never shows {face + 1} faces at once: there is no face {face + 1} to sync. "
            "Choose a smaller number, or none for the largest face."
        )
    where = "" if info.is_image else f" in any of {num_frames} frames (0–{float(last_time):.1f} s)"
    return f"No face found{where} of {info.path}. Faces must look towards the camera and be 50 pixels wide."


class _Clock:
    """Seconds of work by stage. Each stage runs in one thread at a time, so no lock is needed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def timed(self, stage: str, source: Iterable[Any]) -> Iterator[Any]:
        """`source`, with the time that its items take counted as work of `stage`."""
        iterator = iter(source)
        try:
            while True:
                with self.working(stage):
                    item = next(iterator, self)
                if item is self:
                    return
                yield item
        finally:
            close_iterator(iterator)


class _Reporter:
    """Calls back some times a second with the time left."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._stage = ""
        self._total: int | None = None
        self._start = self._last = 0.0

    def begin(self, stage: str, total: int | None) -> None:
        self._stage, self._total = stage, total
        self._start, self._last = time.monotonic(), 0.0
        self.show(0)

    def show(self, done: int) -> None:
        now = time.monotonic()
        if self._callback is None or (now - self._last < _PROGRESS_SECONDS and done != self._total):
            return
        self._last = now
        left = None
        if self._total is not None and done:
            left = (now - self._start) / done * max(self._total - done, 0)
        self._callback(Progress(self._stage, done, self._total, left))
