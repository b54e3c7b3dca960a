"""`lipsmith evaluate leakage` with a tiny real model on a real face."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lipsmith.errors import ExitCode

from .conftest import Command, write_video


@pytest.fixture(scope="module")
def talk(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    head = cv2.imread(str(media / "face.png"))[::2, ::2]
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    write_video(path, [np.roll(head, round(2 * math.sin(k / 3)), axis=1) for k in range(70)], with_sound=True)
    return path


def test_of_a_model_and_of_its_kept_outputs(
    run: Command, talk: Path, media: Path, expert: str, weights: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    judged = ("--judge", expert, "--json")
    done = run("evaluate", "leakage", talk, media / "wall.mp4", *judged, "--model", weights, "-o", output)

    assert done.code == ExitCode.INCOMPLETE and "no sound: " in done.err
    answer = json.loads(done.out)
    assert (answer["system"], answer["num_videos"], answer["num_failed"]) == (weights, 2, 1)
    assert json.loads((output / "leakage.json").read_text()) == answer
    assert len((output / "leakage.csv").read_text().splitlines()) == 3
    assert 0 <= answer["sync"]["old words in silence"]["preference_share"]["value"] <= 1
    assert set(answer["motion"]) == set(answer["chance"]) == {"old words", "old words in silence"}

    again = run("evaluate", "leakage", talk, *judged, "--generated", output)
    assert again.code == ExitCode.OK
    assert json.loads(again.out)["videos"] == answer["videos"][:1]

    table = run("evaluate", "leakage", talk, "--judge", expert, "--generated", tmp_path)
    assert table.code == ExitCode.INCOMPLETE
    assert "missing: There is no file" in table.err and table.out.splitlines()[0].endswith("—")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--judge", "expert={expert}", "--json", "--csv"), "choose one"),
        (("--judge", "expert={expert}", "--generated", ".", "--speech", "x.wav"), "--speech is for --model"),
        (("--judge", "expert={expert}", "--seconds", "1"), "at least 2.6 s"),
        (("--judge", "expert={expert}", "--seconds", "nan"), "at least 2.6 s"),
    ],
)
def test_mistakes_are_told(
    run: Command, talk: Path, expert: str, options: tuple[str, ...], words: str
) -> None:
    filled = [option.replace("expert={expert}", expert) for option in options]
    done = run("evaluate", "leakage", talk, *filled)
    assert (done.code, len(done.sentences)) == (ExitCode.USAGE, 1) and words in done.err
