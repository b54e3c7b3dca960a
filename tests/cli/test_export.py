"""`lipsmith export`: a checkpoint in 8 bits by one command, and what it says when it cannot be."""

import json
from pathlib import Path

import pytest
import torch

from lipsmith.errors import ExitCode
from lipsmith.models.wav2lip import Wav2Lip

from .conftest import Command


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A narrow generator in the published layout, as a training with DataParallel leaves it."""
    torch.manual_seed(0)
    tensors = {f"module.{name}": value for name, value in Wav2Lip(width=0.125).state_dict().items()}
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_a_checkpoint_in_8_bits(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    weights = tmp_path / "small-int8"
    done = run("export", checkpoint, "--precision", "int8", "--calibrate", "drawn", "-o", weights, "--json")
    assert done.code == 0, done.err
    card = json.loads(done.out)
    assert (card["name"], card["architecture"], card["width"]) == ("small-int8", "wav2lip", 0.125)
    agreement = card["scores"]["int8"]
    assert agreement["psnr_lower_db"] >= 38 and agreement["samples"] == 24
    assert f"agree with float32 to {agreement['psnr_lower_db']} dB" in done.err
    assert 'type="FakeQuantize"' in (weights / "generator.xml").read_text()


def test_8_bits_need_faces(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    done = run("export", checkpoint, "--precision", "int8", "-o", tmp_path / "small-int8")
    assert (done.code, done.out, len(done.sentences)) == (ExitCode.USAGE, "", 1)
    assert "--calibrate drawn" in done.err
    assert not (tmp_path / "small-int8").exists()


def test_weights_that_are_not_there(run: Command, tmp_path: Path) -> None:
    done = run("export", "defualt", "-o", tmp_path / "new")
    assert (done.code, done.out, len(done.sentences)) == (ExitCode.WEIGHTS, "", 1)
    assert "Did you mean 'default'?" in done.err
