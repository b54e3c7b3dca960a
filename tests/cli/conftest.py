"""A tiny real model, a face and a voice, and a way to run a command, all offline."""

import math
import shutil
import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lipsmith.cli import main

WEIGHTS_NAME = "tiny"
CLIP_FRAMES = 20
RATE_HZ = 25
SOUND_RATE_HZ = 16_000


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What was said, by line, without blank ones."""
        return [line for line in self.err.splitlines() if line.strip()]


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def installed_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a small untrained generator in it, exported as shipped ones are."""
    import torch

    from lipsmith.models.wav2lip import Wav2Lip
    from lipsmith.weights.card import WeightCard
    from lipsmith.weights.checkpoint import write_weights

    torch.manual_seed(0)
    card = WeightCard(
        name=WEIGHTS_NAME,
        kind="generator",
        architecture="wav2lip",
        width=0.125,
        face_size=96,
        description="Untrained.",
        licence="CC0-1.0",
        use="any",
        trained_on=("nothing",),
    )
    folder = tmp_path_factory.mktemp("weights")
    write_weights(Wav2Lip(width=0.125), card, folder / WEIGHTS_NAME)
    return folder


@pytest.fixture(scope="session")
def expert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained expert, as `--judge` takes it."""
    import torch

    from lipsmith.training.expert import build_expert
    from lipsmith.training.recipe import ExpertModel
    from lipsmith.training.run import save_weights

    torch.manual_seed(0)
    model = ExpertModel(form="dense", width=0.25)
    path = tmp_path_factory.mktemp("expert") / "best.safetensors"
    save_weights(build_expert(model), path, {"model": model.model_dump_json()})
    return f"expert={path.parent}"


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's weights, nor the cache, nor the signing identity are touched."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(folder / "weights"))
    monkeypatch.setenv("LIPSMITH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("LIPSMITH_IDENTITY", str(folder / "identity"))


@pytest.fixture
def weights(installed_weights: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of installed weights, for `--model`."""
    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(installed_weights))
    return WEIGHTS_NAME


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; what native libraries write is caught too."""

    def run_command(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only sources: a face as picture and as video, with and without sound, a wall, speech."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("media")
    head = np.ascontiguousarray(data.astronaut()[:320, 60:380, ::-1])
    cv2.imwrite(str(folder / "face.png"), head)
    moving = [np.roll(head, round(4 * math.sin(index / 3)), axis=1) for index in range(CLIP_FRAMES)]
    write_video(folder / "silent_face.mp4", moving)
    write_video(folder / "face.mp4", moving, with_sound=True)
    write_video(folder / "wall.mp4", [np.full((128, 160, 3), 90, np.uint8)] * CLIP_FRAMES)
    write_sound(folder / "speech.wav", 0.8)
    write_sound(folder / "short.wav", 0.15)
    shutil.copy(folder / "speech.wav", folder / "a speech; with $(words).wav")
    return folder


def write_video(path: Path, images: list[np.ndarray], *, with_sound: bool = False) -> None:
    """An H.264 file at 25 frames a second, from images H×W×3 uint8 BGR, with a tone if wanted."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ, options={"preset": "ultrafast"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_RATE_HZ, layout="mono") if with_sound else None
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            samples = tone(len(images) / RATE_HZ)
            piece = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            piece.sample_rate, piece.pts = SOUND_RATE_HZ, 0
            container.mux(sound.encode(piece))
            container.mux(sound.encode(None))


def write_sound(path: Path, seconds: float) -> None:
    """A WAV file of a tone that swells four times a second."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_RATE_HZ)
        file.writeframes(tone(seconds).tobytes())


def tone(seconds: float) -> np.ndarray:
    """int16 samples at 16 kHz."""
    time = np.arange(round(seconds * SOUND_RATE_HZ)) / SOUND_RATE_HZ
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time)
    return (12_000 * swell * np.sin(2 * np.pi * 180 * time)).astype(np.int16)
