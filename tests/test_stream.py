"""`LipSyncer.stream`: frames and sound as they come."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from math import ceil
from threading import Lock

import cv2
import numpy as np
import pytest

from lipsmith.errors import UsageError
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box
from lipsmith.pipeline import LipSyncer
from lipsmith.timebase import SILENCE
from lipsmith.weights.card import WeightCard

SIZE = 32
FACE = Box(24, 8, 72, 72)
RATE = Fraction(30000, 1001)
LEAD = Fraction(1, 25)
CARD = WeightCard(
    name="fake",
    kind="generator",
    architecture="wav2lip",
    width=1.0,
    face_size=SIZE,
    window_lead_seconds=LEAD,
    files={"generator.xml": "00"},
)


class Runtime:
    """Paints the loudness that it hears into the lower face; remembers what it heard."""

    name, device, face_size, num_references = "fake", "cpu", SIZE, 1

    def __init__(self):
        self.heard = []

    def generate(self, mels, faces):
        self.heard += [mel[0].copy() for mel in mels]
        made = faces[:, 3:].copy()
        made[:, :, SIZE // 2 :] = ((mels.mean(axis=(1, 2, 3)) + 4) / 8)[:, None, None, None]
        return made

    def close(self):
        pass


class Detector:
    name = "fake"

    def detect(self, image):
        return [Detection(FACE, 1.0)] if image[0, 0].any() else []


def make_images(count):
    rng = np.random.default_rng(0)
    still = rng.integers(1, 256, (80, 96, 3), dtype=np.uint8)
    images = []
    for index in range(count):
        image = still.copy()
        image[76:, :8] = index
        images.append(image)
    return images


def make_sound(seconds):
    return np.random.default_rng(1).normal(0, 0.1, round(seconds * 16000)).astype(np.float32)


def in_chunks(samples, size):
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@pytest.fixture
def syncer():
    return LipSyncer(CARD, Runtime(), Detector())


@pytest.mark.parametrize("size", [1, 160, 333, 16_000, 10**6])
def test_streaming_gives_what_rendering_gives_for_the_same_boxes(syncer, size):
    images, samples = make_images(30), make_sound(0.9 if size == 1 else 1)
    boxes = [None if index in (4, 5) else FACE.shifted(index / 10, 0) for index in range(30)]
    rendered = list(syncer.render(images, boxes, samples, RATE, close_in_silence=False))
    before = [image.copy() for image in images]
    streamed = list(
        syncer.stream(images, in_chunks(samples, size), rate=RATE, boxes=iter(boxes), close_in_silence=False)
    )
    assert len(streamed) == 30
    for one, other in zip(streamed, rendered, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1  # a mel in other blocks differs in its last bit
    assert (streamed[3] != images[3]).any()
    np.testing.assert_array_equal(streamed[4], images[4])
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("size", [1, 160, 1000])
@pytest.mark.parametrize("close_in_silence", [False, True])
def test_a_frame_comes_with_the_sound_that_it_hears_and_waits_for_nothing_else(
    syncer, size, close_in_silence
):
    assert syncer.look_ahead_seconds == Fraction(1725, 10_000)
    given = {"frames": 0, "samples": 0}

    def frames():
        for image in make_images(20):
            given["frames"] += 1
            yield image

    def chunks():
        for chunk in in_chunks(make_sound(1), size):
            given["samples"] += len(chunk)
            yield chunk

    boxes = [None if index == 7 else FACE for index in range(20)]
    stream = syncer.stream(frames(), chunks(), rate=RATE, boxes=boxes, close_in_silence=close_in_silence)
    for index, _ in enumerate(stream):
        assert given["frames"] == index + 1  # never a frame ahead
        needed = (index / RATE + syncer.look_ahead_seconds) * 16_000
        # A window begins on a whole column, up to 200 samples earlier than the frame asks for.
        assert ceil(needed) - 200 <= given["samples"] < ceil(needed) + size
    assert index == 19


def test_the_face_is_followed_as_frames_come(syncer):
    images = make_images(40)
    for image in images[10:20]:
        image[0, 0] = 0  # the detector sees nobody
    streamed = list(syncer.stream(images, [make_sound(2)], rate=Fraction(25)))
    changed = [(new != old).any() for new, old in zip(streamed, images, strict=True)]
    assert all(changed[:10])
    assert not any(changed[13:20])  # it keeps its place for a tenth of a second
    assert all(changed[24:])  # and is searched for six times a second


def test_speech_that_ends_early_is_followed_by_silence(syncer):
    streamed = list(syncer.stream(make_images(30), [make_sound(0.4)], rate=Fraction(25), boxes=[FACE] * 30))
    assert len(streamed) == 30
    assert syncer.runtime.heard[5].max() > 0
    assert all((heard == SILENCE).all() for heard in syncer.runtime.heard[13:])


@pytest.mark.parametrize("chunk_seconds", [0.02, 3, 30])
def test_chunks_longer_than_what_is_remembered_are_heard_from_their_beginning(syncer, chunk_seconds):
    chunks = in_chunks(make_sound(30), round(chunk_seconds * 16_000))
    list(syncer.stream(make_images(200), chunks, rate=Fraction(8), boxes=[FACE] * 200))
    assert all(heard[:, 2:].min() > SILENCE for heard in syncer.runtime.heard[1:])


def test_pauses_are_heard_as_silence_by_what_came_before(syncer):
    noise = np.random.default_rng(0).normal(0, 3e-4, 32_000)
    noise[:8000] += 0.3 * np.random.default_rng(1).normal(0, 1, 8000)
    chunks = list(in_chunks(noise.astype(np.float32), 320))
    list(syncer.stream(make_images(48), chunks, boxes=[FACE] * 48))
    assert syncer.runtime.heard[3].max() > 0
    assert all((heard == SILENCE).all() for heard in syncer.runtime.heard[20:])
    syncer.runtime.heard = []
    list(syncer.stream(make_images(48), chunks, boxes=[FACE] * 48, close_in_silence=False))
    assert syncer.runtime.heard[45].max() > SILENCE


def test_a_pause_can_begin_in_the_first_moment(syncer):
    list(syncer.stream(make_images(10), [np.zeros(8000, np.float32)], boxes=[FACE] * 10))
    assert all((heard == SILENCE).all() for heard in syncer.runtime.heard)


def make_scene(seed):
    smooth = cv2.GaussianBlur(
        np.random.default_rng(seed).integers(0, 256, (80, 96, 3), dtype=np.uint8), (0, 0), 6
    ).astype(np.float32)
    image = np.clip((smooth - smooth.mean()) * 8 + 128, 1, 255).astype(np.uint8)
    image[16:20, 30:60] = 1  # nothing white lies over the face
    return image


@pytest.mark.parametrize("door", ["render", "stream", "stream with boxes"])
def test_nothing_is_kept_of_a_face_beyond_its_shot(door):
    from .mouths import seen_mouth, show_mouth

    runtime = Runtime()
    shown = []
    runtime.generate = lambda mels, faces: shown.extend(faces[:, 3:].copy()) or faces[:, 3:].copy()
    syncer = LipSyncer(replace(CARD, reference="steady"), runtime, Detector())
    images = [make_scene(index // 10) for index in range(20)]
    for index, image in enumerate(images):
        show_mouth(image, index % 10)
    if door == "render":
        list(syncer.render(images, [FACE] * 20, make_sound(1), RATE))
    else:
        boxes = None if door == "stream" else [FACE] * 20
        list(syncer.stream(images, [make_sound(1)], rate=RATE, boxes=boxes))
    # In each shot one mouth: of frames that are there already the third least open of ten, else the first.
    expected = 2 if door == "render" else 0
    np.testing.assert_allclose([seen_mouth(face) for face in shown], expected, atol=0.2)


@pytest.mark.parametrize("door", ["render", "stream"])
def test_a_box_beside_the_frame_is_no_face(syncer, door):
    images, boxes = make_images(5), [FACE, FACE.shifted(90, 0), FACE, FACE.shifted(0, -200), FACE]
    made = (
        syncer.render(images, boxes, make_sound(1), RATE)
        if door == "render"
        else syncer.stream(images, [make_sound(1)], rate=RATE, boxes=boxes)
    )
    changed = [(new != old).any() for new, old in zip(made, images, strict=True)]
    assert changed == [True, False, True, False, True]


@pytest.mark.parametrize("rate", [0, -25])
@pytest.mark.parametrize("boxes", [None, [FACE] * 2])
def test_a_rate_must_be_above_zero(syncer, rate, boxes):
    images, samples = make_images(2), make_sound(1)
    with pytest.raises(UsageError, match="must be above 0"):
        next(syncer.stream(images, [samples], rate=rate, boxes=boxes))
    with pytest.raises(UsageError, match="must be above 0"):
        next(syncer.render(images, [FACE] * 2, samples, rate))


def test_threads_take_turns_at_the_runtime(syncer):
    generate, at_work = syncer.runtime.generate, Lock()

    def alone(mels, faces):
        assert at_work.acquire(blocking=False), "two threads at once"
        try:
            time.sleep(0.001)
            return generate(mels, faces)
        finally:
            at_work.release()

    syncer.runtime.generate = alone
    images, sounds = make_images(40), [make_sound(2), make_sound(2) / 8]

    def spoken(samples):
        return list(syncer.render(images, [FACE] * 40, samples, RATE))

    expected = [spoken(samples) for samples in sounds]
    with ThreadPoolExecutor(2) as threads:
        for made, wanted in zip(threads.map(spoken, sounds), expected, strict=True):
            np.testing.assert_array_equal(made, wanted)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("broken", ["frames", "chunks", "boxes", "generate"])
def test_an_exception_of_a_source_comes_through_and_all_sources_are_closed(syncer, broken):
    closed = set()

    def source(name, items):
        try:
            for index, item in enumerate(items):
                if name == broken and index == 3:
                    raise BrokenError(name)
                yield item
        finally:
            closed.add(name)

    if broken == "generate":
        generate = syncer.runtime.generate

        def fail(mels, faces):
            if len(syncer.runtime.heard) == 3:
                raise BrokenError("generate")
            return generate(mels, faces)

        syncer.runtime.generate = fail
    stream = syncer.stream(
        source("frames", make_images(20)),
        source("chunks", in_chunks(make_sound(1), 1600)),
        boxes=source("boxes", [FACE] * 20),
    )
    with pytest.raises(BrokenError, match=broken):
        list(stream)
    assert closed == {"frames", "chunks", "boxes"}


def test_closing_early_takes_no_more_and_closes_the_sources(syncer):
    taken, closed = [], []

    def frames():
        try:
            for image in make_images(100):
                taken.append(image)
                yield image
        finally:
            closed.append("frames")

    stream = syncer.stream(frames(), in_chunks(make_sound(4), 320))
    next(stream)
    next(stream)
    stream.close()
    assert len(taken) == 2
    assert closed == ["frames"]


@pytest.mark.parametrize(
    ("frame", "chunk", "words"),
    [
        (np.zeros((80, 96), np.uint8), None, "frame 1 is uint8 80 × 96; it must be uint8 BGR 80 × 96 × 3"),
        (np.zeros((80, 96, 3), np.float32), None, "frame 1 is float32"),
        (np.zeros((64, 96, 3), np.uint8), None, "64 × 96 × 3; it must be uint8 BGR 80 × 96 × 3"),
        (
            None,
            np.zeros(160, np.int16),
            "chunk 1 of the sound is int16 160; .*divide 16-bit samples by 32768",
        ),
        (None, np.zeros((160, 2), np.float32), "float32 160 × 2; it must be mono"),
        (None, np.full(160, 9000, np.float32), "chunk 1 of the sound reaches 9000; .*divide 16-bit samples"),
        (None, np.full(160, np.nan), "chunk 1 of the sound reaches nan"),
    ],
)
def test_what_has_another_form_is_refused(syncer, frame, chunk, words):
    images = make_images(2)
    if frame is not None:
        images[1] = frame
    chunks = [make_sound(0.01), make_sound(1) if chunk is None else chunk]
    with pytest.raises(ValueError, match=words):
        list(syncer.stream(images, chunks, boxes=[FACE] * 2))
    if frame is not None:
        with pytest.raises(ValueError, match=words):
            syncer.track(images)
        with pytest.raises(ValueError, match=words):
            list(syncer.render(images, [FACE] * 2, make_sound(1), RATE))
