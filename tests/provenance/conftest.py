"""Tiny videos made on the spot, and an identity in a temporary folder."""

import shutil
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsmith.provenance import Identity, SyncRecord, container_metadata, load_or_create_identity
from lipsmith.provenance.identity import IDENTITY_VARIABLE

NUM_FRAMES = 10
MakeVideo = Callable[..., Path]
WriteVideo = Callable[..., None]


def write_video(
    path: Path, tags: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> None:
    with av.open(str(path), "w", options=dict(options or {})) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(NUM_FRAMES):
            pixels = np.full((48, 64, 3), 20 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(name="write_video", scope="session")
def _write_video() -> WriteVideo:
    """write_video(path, tags, options of the muxer) → ten frames of 64 × 48."""
    return write_video


@pytest.fixture(scope="session")
def record() -> SyncRecord:
    return SyncRecord("default", "ab" * 32, "talk.mp4", "speech.wav", 240, 10)


@pytest.fixture(scope="session")
def identity_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(autouse=True)
def _own_identity_folder(identity_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDENTITY_VARIABLE, str(identity_home))


@pytest.fixture(scope="session")
def identity(identity_home: Path) -> Identity:
    return load_or_create_identity(identity_home)


@pytest.fixture(scope="session")
def _originals(tmp_path_factory: pytest.TempPathFactory, record: SyncRecord) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for suffix in (".mp4", ".m4v", ".mov", ".mkv", ".avi"):
        write_video(folder / f"plain{suffix}")
        write_video(folder / f"tagged{suffix}", container_metadata(record))
    return folder


@pytest.fixture
def make_video(tmp_path: Path, _originals: Path) -> MakeVideo:
    """make_video("name.mp4", tagged=True) → a short video of that name in the test's folder."""

    def make(name: str, *, tagged: bool = False) -> Path:
        path = tmp_path / name
        shutil.copy(_originals / f"{'tagged' if tagged else 'plain'}{path.suffix}", path)
        return path

    return make


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def media_data_range(path: Path) -> range:
    """Positions in an ISO media file of what its `mdat` box holds."""
    data = path.read_bytes()
    start = 0
    while data[start + 4 : start + 8] != b"mdat":
        start += int.from_bytes(data[start : start + 4], "big")
    return range(start + 8, start + int.from_bytes(data[start : start + 4], "big"))


FlipMediaBit = Callable[[Path, int], None]


@pytest.fixture
def flip_media_bit() -> FlipMediaBit:
    """flip_media_bit(path, index) → one bit of the media data changed, index counted from either end."""
    return lambda path, index: flip_bit(path, media_data_range(path)[index])


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
