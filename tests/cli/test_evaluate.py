"""`lipsmith evaluate score`: rows for scores and for failures, exit code, answers, kept scores."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lipsmith.errors import ExitCode
from lipsmith.media.probe import probe
from lipsmith.media.read import read_frames
from lipsmith.media.write import VideoWriter

from .conftest import Command


@pytest.fixture
def videos(media: Path, tmp_path: Path) -> Path:
    """One that can be scored, and three that cannot."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("face", "silent_face", "wall"):
        shutil.copy(media / f"{name}.mp4", folder)
    (folder / "corrupt.mp4").write_bytes((media / "face.mp4").read_bytes()[:1500])
    return folder


def test_failures_are_rows_and_the_exit_code_says_so(
    run: Command, videos: Path, expert: str, tmp_path: Path
) -> None:
    gone, output = tmp_path / "gone.mp4", tmp_path / "out"
    arguments = ("evaluate", "score", videos, gone, "--judge", expert, "--min-track", 14, "-o", output)

    done = run(*arguments, "--json")

    assert done.code == ExitCode.INCOMPLETE == 12
    answer = json.loads(done.out)
    assert [(Path(row["path"]).name, row["failure_kind"]) for row in answer["files"]] == [
        ("corrupt.mp4", "unreadable"),
        ("face.mp4", None),
        ("silent_face.mp4", "no sound"),
        ("wall.mp4", "no sound"),
        ("gone.mp4", "missing"),
    ]
    assert answer["summary"]["num_scored"] == 1
    assert answer["summary"]["failures"] == {"missing": 1, "no sound": 2, "unreadable": 1}
    assert "compare only with one another" in answer["scorer"]["compares"]
    assert "compare only with one another" in done.err
    assert json.loads((output / "scores.json").read_text()) == answer
    kept = (output / "scores.jsonl").read_text()
    assert len(kept.splitlines()) == 4  # a missing file has no digest to keep it under

    again = run(*arguments, "--csv")

    assert again.code == ExitCode.INCOMPLETE
    assert (output / "scores.jsonl").read_text() == kept
    rows = list(csv.DictReader(io.StringIO(again.out)))
    assert again.out == (output / "scores.csv").read_text()
    scored = answer["files"][1]
    assert float(rows[1]["lse_d"]) == scored["lse_d"] and rows[1]["num_tracks"] == "1"
    assert rows[4]["failure"] == f"There is no file {gone}." and rows[4]["lse_d"] == ""


def test_a_table_for_people(run: Command, media: Path, expert: str) -> None:
    done = run("evaluate", "score", media / "face.mp4", "--judge", expert, "--protocol", "whole-clip")
    assert done.code == ExitCode.OK
    header, row = done.out.splitlines()
    assert header.split() == ["file", "LSE-D", "LSE-C", "offset", "windows", "tracks"]
    assert row.startswith(str(media / "face.mp4")) and row.split()[-2:] == ["16", "1"]
    assert "Mean of 1 of 1 files" in done.err and "invisible to LSE" in done.err


def test_syncnet_by_its_file(run: Command, media: Path, tmp_path: Path) -> None:
    from lipsmith.models.syncnet import SyncNet

    torch.manual_seed(0)
    file = tmp_path / "syncnet.pth"
    torch.save(SyncNet().state_dict(), file)
    done = run("evaluate", "score", media / "face.mp4", "--judge", file, "--protocol", "whole-clip", "--json")
    assert (done.code, done.sentences[0][:18]) == (ExitCode.OK, "Judge: SyncNet v2,")
    answer = json.loads(done.out)
    assert answer["scorer"]["runtime"] == ("torch" if torch.cuda.is_available() else "openvino")
    assert answer["files"][0]["num_windows"] == 15
    assert np.isfinite(answer["files"][0]["lse_d"])


def test_a_pickle_that_would_run_code_is_not_run(run: Command, media: Path, tmp_path: Path) -> None:
    file = tmp_path / "syncnet.pth"
    torch.save({"netcnnlip.0.weight": Path("x")}, file)
    done = run("evaluate", "score", media / "face.mp4", "--judge", file)
    assert done.code == ExitCode.WEIGHTS and "would run code" in done.err


def test_without_weights_the_ways_out_are_told(run: Command, media: Path) -> None:
    done = run("evaluate", "score", media / "face.mp4")
    assert done.code == ExitCode.USAGE
    assert "--download" in done.err and "--judge expert=RUN" in done.err and len(done.sentences) == 1


def test_two_answers_at_once_are_refused(run: Command, media: Path, expert: str) -> None:
    done = run("evaluate", "score", media / "face.mp4", "--judge", expert, "--json", "--csv")
    assert done.code == ExitCode.USAGE and "choose one" in done.err


def test_quality_beside_a_reference(run: Command, videos: Path, media: Path) -> None:
    done = run(
        "evaluate", "quality", videos / "face.mp4", videos / "wall.mp4", "--reference", media, "--json"
    )
    assert done.code == ExitCode.INCOMPLETE
    face, wall = json.loads(done.out)["files"]
    assert (face["psnr_lower"], face["unchanged_difference"], face["mouth_distance"]) == (100.0, 0.0, 0.0)
    assert face["is_unchanged_outside"] and face["failure"] is None
    assert (wall["failure_kind"], wall["psnr_lower"]) == ("no face", None)


def test_fid_by_a_network_of_one_s_own(run: Command, videos: Path, media: Path, tmp_path: Path) -> None:
    class Colours(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.mean(dim=(2, 3))

    network = tmp_path / "colours.pt"
    torch.jit.script(Colours()).save(str(network))
    done = run(
        "evaluate",
        "quality",
        videos / "face.mp4",
        "-r",
        media / "face.mp4",
        "--features",
        network,
        "--device",
        "cpu",
    )
    assert done.code == ExitCode.OK
    assert done.out.splitlines()[-1] == "FID 0.000"
    assert "compares only with numbers of the same network" in done.err
    refused = run("evaluate", "quality", videos / "face.mp4", "-r", media / "face.mp4", "--fid")
    assert refused.code == ExitCode.WEIGHTS and "--download" in refused.err
    # A generated video in which nobody finds a face costs its own part of the FID, and no row.
    picture = probe(media / "face.mp4").video
    assert picture is not None
    with VideoWriter(
        videos / "faceless.mp4", width=picture.width, height=picture.height, rate=picture.rate
    ) as writer:
        for frame in read_frames(media / "face.mp4"):
            writer.write(np.full_like(frame.image, 90), frame.time)
    two = [videos / "face.mp4", videos / "faceless.mp4"]
    rest = ("-r", media / "face.mp4", "--features", network, "--device", "cpu", "--json")
    done = run("evaluate", "quality", *two, *rest)
    assert done.code == ExitCode.INCOMPLETE
    assert "faceless.mp4 is in no FID: There is no face" in done.err
    answer = json.loads(done.out)
    assert [row["failure"] for row in answer["files"]] == [None, None] and answer["fid"][
        "fid"
    ] == pytest.approx(0)
    done = run("evaluate", "quality", two[1], *rest)
    assert done.code == ExitCode.INCOMPLETE and "There is no FID" in done.err
    assert json.loads(done.out)["fid"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text exist on Linux")
def test_a_name_that_is_no_text_is_scored_and_written(
    run: Command, media: Path, expert: str, tmp_path: Path
) -> None:
    name = os.fsdecode(b"b\xe4d.mp4")
    shutil.copy(media / "face.mp4", tmp_path / name)
    output = tmp_path / "out"
    done = run(
        "evaluate", "score", tmp_path / name, "--judge", expert, "--min-track", 14, "-o", output, "--json"
    )
    assert done.code == ExitCode.OK
    for text in (done.out, (output / "scores.json").read_text()):
        assert json.loads(text)["files"][0]["path"].endswith(name)
    assert os.fsencode(name) in (output / "scores.csv").read_bytes()
