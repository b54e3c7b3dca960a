"""`lipsmith weights`, `export` and `inspect`: what they answer."""

import json
from pathlib import Path

import pytest
import torch

from lipsmith.errors import ExitCode
from lipsmith.models.wav2lip import Wav2Lip

from .conftest import Command

TRAINING_WIDTH = 0.125


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator as trainers save it: wrapped, names prefixed, a step count beside."""
    torch.manual_seed(1)
    tensors = {f"module.{name}": value for name, value in Wav2Lip(width=TRAINING_WIDTH).state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoints") / "generator.pth"
    torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


def test_list(run: Command, weights: str) -> None:
    done = run("weights", "list", "--json")
    assert done.code == ExitCode.OK
    names = [card["name"] for card in json.loads(done.out)]
    assert weights in names
    lines = run("weights", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == names


def test_show(run: Command, weights: str) -> None:
    card = json.loads(run("weights", "show", weights, "--json").out)
    assert (card["kind"], card["face_size"], card["use"]) == ("generator", 96, "any")
    words = run("weights", "show", weights).out
    assert "trained_on: nothing" in words
    assert f"  generator.safetensors: {card['files']['generator.safetensors']}" in words


def test_show_refuses_a_changed_file(run: Command, weights: str, installed_weights: Path) -> None:
    path = installed_weights / weights / "generator.bin"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = run("weights", "show", weights)
    finally:
        path.write_bytes(whole)
    assert done.code == ExitCode.WEIGHTS
    assert "generator.bin" in done.err


def test_identify(run: Command, checkpoint: Path) -> None:
    found = json.loads(run("weights", "identify", checkpoint, "--json").out)
    assert (found["kind"], found["architecture"], found["width"]) == ("generator", "wav2lip", TRAINING_WIDTH)
    assert found["wrapped"] and found["prefixed"]
    assert found["details"] == {"global_step": 7}


def test_a_checkpoint_speaks_to_no_terminal(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.pth"
    torch.save({**torch.load(checkpoint), "note": "\x1b]0;title\x07", "loss": float("inf")}, noisy)
    words = run("weights", "identify", noisy).out
    assert "note: �]0;title�" in words and "\x1b" not in words
    assert json.loads(run("weights", "identify", noisy, "--json").out)["details"]["loss"] is None
    assert "architecture: wav2lip" in run("weights", "identify", checkpoint).out.splitlines()


def test_import_and_then_sync(run: Command, checkpoint: Path, media: Path, tmp_path: Path) -> None:
    card = json.loads(run("weights", "import", checkpoint, "--name", "mine", "--json").out)
    assert (card["name"], card["use"]) == ("mine", "research")
    again = run("weights", "import", checkpoint, "--name", "mine")
    assert again.code == ExitCode.WEIGHTS
    output = tmp_path / "out.mp4"
    done = run("sync", media / "face.png", media / "speech.wav", "-o", output, "--model", "mine", "--json")
    assert json.loads(done.out)["model"] == "mine"


def test_sync_with_a_checkpoint_file(run: Command, checkpoint: Path, media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    done = run("sync", media / "face.png", media / "speech.wav", "-o", output, "--model", checkpoint)
    assert done.code == ExitCode.OK, done.err
    assert output.is_file()


def test_export_states_what_only_its_maker_knows(
    run: Command, checkpoint: Path, media: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shipped"
    done = run(
        *("export", checkpoint, "-o", folder, "--precision", "fp16", "--audio-lead", "1/25"),
        *("--licence", "CC-BY-4.0", "--use", "any", "--description", "Small.", "--json"),
    )
    card = json.loads(done.out)
    assert (card["name"], card["window_lead_seconds"], card["use"]) == ("shipped", "1/25", "any")
    assert (card["licence"], card["description"]) == ("CC-BY-4.0", "Small.")
    assert {"card.toml", "generator.xml", "generator.bin"} <= {path.name for path in folder.iterdir()}
    output = tmp_path / "out.mp4"
    assert run("sync", media / "face.png", media / "speech.wav", "-o", output, "-m", folder).code == 0


def test_inspect_reads_back_what_sync_wrote(run: Command, media: Path, weights: str, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert run("sync", media / "face.png", media / "speech.wav", "-o", output, "-m", weights).code == 0
    answer = json.loads(run("inspect", output, "--json").out)
    assert (answer["is_marked"], answer["says_synthetic"], answer["model"]) == (True, True, weights)
    assert answer["credentials"]["state"] == "valid"
    assert "says that it is synthetic" in run("inspect", output).out


def test_inspect_of_an_unmarked_file(run: Command, media: Path) -> None:
    answer = json.loads(run("inspect", media / "face.mp4", "--json").out)
    assert (answer["is_marked"], answer["credentials"], answer["container"]) == (False, None, None)
