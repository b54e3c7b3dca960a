"""Prepared clips: face crops, mel and exact times of one track of one video, and the index over a folder of them.

A prepared folder holds `index.jsonl` (one line per clip, see `ClipRecord`), `dropped.jsonl` (one line per thing left
out, with the reason) and the clips: in shards, where `lipsmith.data.shards` has packed them, or else each as
`clips/<id>.npz`. Crops are stored as JPEG, with a margin around the face box so that training can shift and scale the
crop; `core` says which part of a stored crop is the face crop of inference.
"""

import hashlib
import io
import json
import math
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.voice import speech_activity
from lipsmith.audio.windows import window_batch
from lipsmith.data.storage import Location, as_address, open_storage, write_whole
from lipsmith.errors import DataError
from lipsmith.geometry import resize
from lipsmith.timebase import MEL_RATE_HZ, NUM_MELS, window_start

INDEX_NAME = "index.jsonl"
CLIPS_FOLDER = "clips"
DROPPED_NAME = "dropped.jsonl"
MARGIN_SHARE = Fraction(1, 6)  # of the face crop's side, stored on each side of it
_JPEG_QUALITY = 95
_MOST_HEADER_BYTES = 4096  # of an array in an npz: all of ours have 128


def stored_size(face_size: int) -> int:
    """Side of a stored crop in pixels: the face crop and its margins."""
    return face_size + 2 * round(face_size * MARGIN_SHARE)


@dataclass(frozen=True)
class ClipRecord:
    """One line of the index: where a clip comes from, what may be done with it, and its measures."""

    id: str
    source: str  # the video, relative to the input folder
    speaker: str
    num_frames: int
    face_size: int
    rate_hz: float  # of the source
    face_pixels: float  # median side of the face in the source
    sharpness: float  # median variance of the Laplacian of the face crop's luma
    licence: str = "unknown"
    use: str = "unknown"
    collection: str = ""  # the corpus or folder that the clip belongs to
    origin: str = ""
    offset_seconds: float = (
        0.0  # added to a frame's time before its sound is looked up (measured by the expert)
    )
    offset_confidence: float | None = None
    excluded: str = ""  # why the data doctor leaves it out of training; empty when it does not
    crop: str = "tracked"  # or "given": face crops that somebody else made, by another rule
    split: str = ""  # train, validation or test where the footage's own lists say so
    shard: str = ""  # file name under shards/; empty while the clip is a file of its own
    shard_offset: int = 0  # of the clip's bytes in the shard
    shard_size: int = 0
    digest: str = ""  # of the clip's bytes, see `digest_of`

    @property
    def file(self) -> str:
        """The file that holds the clip, relative to the prepared folder."""
        return f"shards/{self.shard}" if self.shard else f"{CLIPS_FOLDER}/{self.id}.npz"

    @classmethod
    def from_json(cls, line: str) -> "ClipRecord":
        """The record in a line of the index; fields of later versions are passed over."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in json.loads(line).items() if name in known})

    def to_json(self) -> str:
        """The line of the index."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass
class Clip:
    """A prepared clip in memory.

    Attributes:
        record: Its line of the index.
        jpegs: One JPEG per frame, `stored_size` pixels a side, BGR when decoded by OpenCV.
        times: Seconds of each frame on the video's clock, exact.
        mel: float32 (80, n); its column 0 is column `mel_first` of the video's mel.
        thumbnails: Small pictures of upper halves that were asked for, by frame.
    """

    record: ClipRecord
    jpegs: list[NDArray[np.uint8]]
    times: list[Fraction]
    mel: NDArray[np.float32]
    mel_first: int
    thumbnails: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.jpegs)

    @property
    def core(self) -> slice:
        """Rows (and columns) of a stored crop that inference would see."""
        margin = (stored_size(self.record.face_size) - self.record.face_size) // 2
        return slice(margin, margin + self.record.face_size)

    def stored(self, first: int, count: int) -> NDArray[np.uint8]:
        """`count` stored crops from frame `first` on, uint8 (count, side, side, 3), BGR."""
        return np.stack([decode_crop(jpeg) for jpeg in self.jpegs[first : first + count]])

    def faces(self, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
        """Face crops as inference sees them, uint8 (count, S, S, 3), BGR."""
        count = len(self) - first if count is None else count
        return self.stored(first, count)[:, self.core, self.core]

    def speaking(self) -> NDArray[np.bool_]:
        """Whether anything is said in the 0.2 s from each frame on, (T,)."""
        windows = window_batch(np.repeat(speech_activity(self.mel)[None], NUM_MELS, axis=0), self.starts())
        return windows[:, 0, 0].max(axis=-1) > 0

    def upper_thumbnail(self, frame: int) -> NDArray[np.float32]:
        """The upper half of a stored crop, 24 × 12 grey: pose without mouth, for comparing frames."""
        if frame not in self.thumbnails:
            grey = decode_crop(self.jpegs[frame], cv2.IMREAD_REDUCED_GRAYSCALE_2)
            self.thumbnails[frame] = resize(grey[: grey.shape[0] // 2], 24, 12)
        return self.thumbnails[frame].astype(np.float32)

    def starts(self, lead_seconds: Fraction = Fraction(0), shift_seconds: float = 0.0) -> list[int]:
        """First column in `mel` that each frame hears; see `lipsmith.timebase.window_start`."""
        offset = Fraction(self.record.offset_seconds + shift_seconds).limit_denominator(10_000)
        lead = lead_seconds - offset  # of a time that is as much later
        return [window_start(time, lead) - self.mel_first for time in self.times]

    def windows(
        self, lead_seconds: Fraction = Fraction(0), shift_seconds: float = 0.0
    ) -> NDArray[np.float32]:
        """What each frame hears, float32 (T, 1, 80, 16)."""
        return window_batch(self.mel, self.starts(lead_seconds, shift_seconds))


def digest_of(content: bytes) -> str:
    """What the index knows a clip's bytes by: BLAKE2b of 8 bytes, as hex digits."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def clip_bytes(clip: Clip) -> bytes:
    """`clip` as an uncompressed npz: crops, their lengths, exact times, mel."""
    file = io.BytesIO()
    np.savez(
        file,
        jpegs=np.concatenate(clip.jpegs),
        lengths=np.array([len(jpeg) for jpeg in clip.jpegs], np.int64),
        time_numerators=np.array([t.numerator for t in clip.times], np.int64),
        time_denominators=np.array([t.denominator for t in clip.times], np.int64),
        mel=clip.mel,
        mel_first=np.int64(clip.mel_first),
    )
    return file.getvalue()


def clip_from_bytes(record: ClipRecord, content: bytes, *, known: bool = False) -> Clip:
    """The clip that `clip_bytes` wrote; raises `DataError` when the bytes are damaged.

    `known` bytes were found to be whole before: their check sums are not computed again.
    """
    if record.digest and not known and digest_of(content) != record.digest:
        raise DataError("other bytes than the index knows")
    try:
        if record.digest or known:
            file = _views(content)
        else:
            with np.load(io.BytesIO(content), allow_pickle=False) as read:
                file = dict(read)
        joined, lengths = file["jpegs"], file["lengths"]
        numerators, denominators = file["time_numerators"].tolist(), file["time_denominators"].tolist()
        mel, mel_first = file["mel"], int(file["mel_first"])
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise DataError("no npz of a clip" if isinstance(error, KeyError) else str(error)) from error
    if lengths.sum() != len(joined) or not len(lengths) == len(numerators) == len(denominators):
        raise DataError("crops, lengths and times do not belong together")
    ends = np.cumsum(lengths).tolist()
    jpegs = [joined[first:last] for first, last in pairwise([0, *ends])]
    times = list(map(Fraction, numerators, denominators))
    return Clip(record, jpegs, times, mel, mel_first)


def _views(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays in an npz that is not compressed, where they lie: several times as fast as `np.load`."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("an npz that is compressed")
            # A member's own header has a length of its own: 30 bytes, the name, and what is called extra.
            name_length, extra_length = struct.unpack_from("<HH", content, member.header_offset + 26)
            start = member.header_offset + 30 + name_length + extra_length
            head = io.BytesIO(content[start : start + _MOST_HEADER_BYTES])
            if np.lib.format.read_magic(head) != (1, 0):
                raise ValueError("an npz of another kind")
            shape, column_first, dtype = np.lib.format.read_array_header_1_0(head)
            count = math.prod(shape)
            array = np.frombuffer(content, dtype, count, start + head.tell())
            arrays[member.filename.removesuffix(".npy")] = array.reshape(
                shape, order="F" if column_first else "C"
            )
    return arrays


def save_clip(clip: Clip, folder: Path) -> Path:
    """Write `clip` as a file of its own under `folder`/clips, whole or not at all."""
    path = folder / CLIPS_FOLDER / f"{clip.record.id}.npz"
    write_whole(path, clip_bytes(clip))
    return path


def load_clip(record: ClipRecord, folder: Location, *, known: bool = False) -> Clip:
    """Read the clip of `record` from a prepared folder or address; `known` as `clip_from_bytes` has it.

    Raises:
        DataError: The clip's file or shard is missing or damaged.
    """
    storage = open_storage(folder)

    def read() -> Clip:
        if record.shard:
            content = storage.read(record.file, record.shard_offset, record.shard_size)
        else:
            content = storage.read(record.file)
        return clip_from_bytes(record, content, known=known)

    try:
        try:
            return read()
        except DataError:
            if not storage.renew(record.file):
                raise
            return read()
    except DataError as error:
        raise DataError(
            f"The prepared clip {record.id} in {storage.place(record.file)} cannot be read ({error}). "
            "Delete that file, if it is there, and run `lipsmith prepare` with the same footage: it is made anew."
        ) from error


def check_clip(clip: Clip) -> None:
    """Raise `DataError`, in a few words, when the clip is not what its record says or a crop is damaged.

    Decodes every crop, at an eighth of its size.
    """
    if len(clip) != clip.record.num_frames:
        raise DataError(f"{len(clip)} frames instead of {clip.record.num_frames}")
    if clip.mel.ndim != 2 or clip.mel.shape[0] != NUM_MELS or not np.isfinite(clip.mel).all():
        raise DataError("a mel that is none")
    for number, jpeg in enumerate(clip.jpegs):
        # Decoders take a JPEG that was cut off for a picture with a grey end.
        whole = jpeg[:2].tobytes() == b"\xff\xd8" and jpeg[-2:].tobytes() == b"\xff\xd9"
        if not whole or cv2.imdecode(jpeg, cv2.IMREAD_REDUCED_GRAYSCALE_8) is None:
            raise DataError(f"crop {number} is damaged")


def encode_crop(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One stored crop as JPEG bytes."""
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].ravel()


def decode_crop(jpeg: NDArray[np.uint8], flags: int = cv2.IMREAD_COLOR) -> NDArray[np.uint8]:
    """The picture in JPEG bytes, as OpenCV's `flags` ask; `DataError` when it is damaged."""
    picture = cv2.imdecode(jpeg, flags)
    if picture is None:
        raise DataError(
            "A crop of a prepared clip is damaged. Run `lipsmith prepare` again into a new folder."
        )
    return picture.astype(np.uint8, copy=False)


def mel_slice(mel: NDArray[np.float32], times: Sequence[Fraction]) -> tuple[NDArray[np.float32], int]:
    """What frames at `times` can hear of a video's `mel` with offsets up to half a second, and its first column."""
    reach = MEL_RATE_HZ // 2
    first = max(0, window_start(times[0]) - reach)
    last = window_start(times[-1]) + 2 * reach
    return np.ascontiguousarray(mel[:, first:last]), first


def read_index(folder: Location) -> list[ClipRecord]:
    """All records of a prepared folder or address; raises `DataError` when there is no index or it is empty."""
    storage = open_storage(folder)
    path = storage.place(INDEX_NAME)
    try:
        content = storage.read(INDEX_NAME, fresh=True)
    except DataError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Make it with `lipsmith prepare VIDEOS --output {folder}`."
            if as_address(folder)
            else f"{folder} holds no {INDEX_NAME}. Make it with `lipsmith prepare VIDEOS --output {folder}`."
        ) from error
    records = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            records += [ClipRecord.from_json(line.decode())] if line.strip() else []
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"Line {number} of {path} is damaged. Running `lipsmith prepare` again with the same videos mends it."
            ) from error
    if not records:
        raise DataError(
            f"{path} lists no clip: nothing usable was found when it was prepared; see {DROPPED_NAME}."
        )
    return records


def write_index(folder: Path, records: Iterable[ClipRecord]) -> None:
    """Replace the index of a prepared folder, whole or not at all."""
    write_whole(folder / INDEX_NAME, "".join(f"{record.to_json()}\n" for record in records).encode())


def index_digest(folder: Location) -> str:
    """What identifies a prepared data set: SHA-256 of its index, which holds the digests of its clips."""
    return hashlib.sha256(open_storage(folder).read(INDEX_NAME)).hexdigest()


def dropped_rows(folder: Path) -> list[dict[str, str]]:
    """A prepared folder's list of what was left out: source, reason, detail."""
    path = folder / DROPPED_NAME
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def dropped_counts(folder: Path) -> dict[str, int]:
    """How often each reason stands in a prepared folder's list of what was left out."""
    return dict(Counter(row["reason"] for row in dropped_rows(folder)))
