"""A small study of clips that carry their frame numbers and beep, built once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..media_samples import make_clip

pytest.importorskip("fastapi", reason="the extra `study` is not installed")

from lipsmith.study.build import BuildOptions, build_study
from lipsmith.study.folder import Study, read_links
from lipsmith.study.storage import AnswerStore

SYSTEMS = ("alpha", "beta", "genuine")
ITEMS = ("Dubbed/one", "Random/two")
NUM_FRAMES = 15


@dataclass(frozen=True)
class Built:
    """A study, its folder and the secrets of its raters."""

    folder: Path
    study: Study
    tokens: list[str]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """System → folder of two items, 0.6 s each, of another width for each system."""
    folders = {}
    for number, system in enumerate(SYSTEMS):
        folders[system] = tmp_path_factory.mktemp(system)
        for item in ITEMS:
            path = folders[system] / f"{item}.mp4"
            path.parent.mkdir()
            make_clip(path, num_frames=NUM_FRAMES, width=96 + 32 * number, sound_seconds=NUM_FRAMES / 25)
    return folders


@pytest.fixture(scope="session")
def built(videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two systems and real videos, two items, two raters, two checks; read-only."""
    folder = tmp_path_factory.mktemp("built") / "study"
    options = BuildOptions(num_raters=2, seed=5, anchors=("genuine",), title="Faces")
    study = build_study(videos, folder, options).study
    return Built(folder, study, read_links(folder, study))


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Iterator[AnswerStore]:
    """An empty database for the answers to `built`."""
    store = AnswerStore(f"sqlite:///{tmp_path / 'answers.sqlite3'}", built.study.digest)
    yield store
    store.close()
