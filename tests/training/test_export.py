"""A finished run becomes weights whose card says what the recipe and the data say."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lipsmith.conditioning import DEFAULT_PADDING
from lipsmith.data.clips import Clip, ClipRecord, encode_crop, save_clip, stored_size, write_index
from lipsmith.errors import RecipeError, UsageError, WeightsError
from lipsmith.evaluation.judges import resolve_judge
from lipsmith.models.wav2lip import PairedWav2Lip, Wav2Lip
from lipsmith.training.calibration import DRAWN
from lipsmith.training.expert import build_expert, load_expert
from lipsmith.training.export import export_weights
from lipsmith.training.recipe import ExpertRecipe, GeneratorRecipe
from lipsmith.training.run import save_weights
from lipsmith.weights.checkpoint import PUBLISHED_CROP_PADDING, import_checkpoint
from lipsmith.weights.store import resolve

SIZE = 96


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lipsmith train` leaves of a generator, untrained."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_file(Wav2Lip(width=0.125).state_dict(), folder / "best.safetensors")
    recipe = GeneratorRecipe.model_validate(
        {
            "task": "generator",
            "name": "small",
            "steps": 1,
            "description": "A test's.",
            "lead_seconds": "1/25",
            "data": {"validation": ["ada"]},
        }
    )
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six prepared clips of three speakers: smooth noise for faces, noise for sound."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    side = stored_size(SIZE)
    records = []
    for number in range(6):
        faces = [cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (side, side)) for _ in range(30)]
        record = ClipRecord(
            id=f"clip{number}",
            source=f"{number}.mp4",
            speaker=("ada", "grace", "mary")[number % 3],
            num_frames=30,
            face_size=SIZE,
            rate_hz=25.0,
            face_pixels=90.0,
            sharpness=1.0,
            use="open",
            collection=("kept", "held out")[number % 3 == 0],
        )
        times = [Fraction(index, 25) for index in range(30)]
        mel = rng.uniform(-4, 4, (80, 140)).astype(np.float32)
        save_clip(Clip(record, [encode_crop(face) for face in faces], times, mel, 0), folder)
        records.append(record)
    write_index(folder, records)
    return folder


def test_the_card_says_what_recipe_and_data_say(run_folder: Path, prepared: Path, tmp_path: Path) -> None:
    card = export_weights(
        run_folder, tmp_path / "mine", data=prepared, precision="int8", overrides={"licence": "CC-BY-4.0"}
    )
    assert (card.name, card.width, card.face_size) == ("mine", 0.125, SIZE)
    assert (card.window_lead_seconds, card.crop_padding) == (Fraction(1, 25), DEFAULT_PADDING)
    assert (card.recipe, card.description, card.licence) == ("small", "A test's.", "CC-BY-4.0")
    assert (card.trained_on, card.use) == (("kept",), "any")
    assert set(card.files) == {"generator.safetensors", "generator.xml", "generator.bin"}
    agreement = card.scores["int8"]
    assert agreement["psnr_lower_db"] >= 38 and agreement["worst_psnr_lower_db"] >= 32
    assert agreement["samples"] == 4  # one clip of the four that were trained on
    parameters = sum(value.numel() for value in Wav2Lip(width=0.125).parameters())
    assert (tmp_path / "mine" / "generator.bin").stat().st_size < 1.5 * parameters  # bytes: mostly one each


def test_a_plain_checkpoint_is_used_like_the_published_ones(run_folder: Path, tmp_path: Path) -> None:
    card = export_weights(run_folder / "best.safetensors", tmp_path / "plain")
    assert (card.window_lead_seconds, card.crop_padding) == (0, PUBLISHED_CROP_PADDING)
    assert (card.use, card.trained_on) == ("research", ())


@pytest.mark.parametrize("said", [None, {"kind": "generator", "lead_seconds": "1/25", "reference": "pair"}])
def test_a_file_of_a_generator_with_two_references_is_shown_two(
    tmp_path: Path, said: dict[str, str] | None
) -> None:
    save_file(PairedWav2Lip(width=0.125).state_dict(), tmp_path / "pair.safetensors", said)
    for card in (
        export_weights(tmp_path / "pair.safetensors", tmp_path / "out", calibrate=[DRAWN]),
        import_checkpoint(tmp_path / "pair.safetensors", "imported", tmp_path),
    ):
        assert (card.architecture, card.reference) == ("wav2lip-pair", "pair")
        assert card.window_lead_seconds == (Fraction(1, 25) if said else 0)


def test_weights_by_name_keep_their_card(tmp_path: Path) -> None:
    card = export_weights("default", tmp_path / "again", overrides={"description": "The same."})
    default, folder = resolve("default")
    kept = (
        "architecture",
        "width",
        "window_lead_seconds",
        "crop_padding",
        "reference",
        "licence",
        "use",
        "trained_on",
    )
    assert {name: getattr(card, name) for name in kept} == {name: getattr(default, name) for name in kept}
    assert (card.name, card.description, card.scores) == ("again", "The same.", {})
    assert card.source.startswith(f"default, {default.source}, sha256 ")
    ours, theirs = (load_file(place / "generator.safetensors") for place in (tmp_path / "again", folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_int8_needs_faces(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"int8.*--calibrate.*--data.*--calibrate drawn"):
        export_weights(run_folder, tmp_path / "mine", precision="int8")
    assert not list(tmp_path.iterdir())


def test_an_expert_becomes_weights_that_judge_and_teach(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ExpertRecipe.model_validate(
        {
            "task": "expert",
            "name": "e",
            "steps": 1,
            "model": {"width": 0.125, "embedding": 16, "frames": 3},
            "data": {"validation": ["ada"]},
        }
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(recipe.model_dump_json())
    torch.manual_seed(0)
    expert = build_expert(recipe.model)
    save_weights(expert, run / "best.safetensors", {"model": recipe.model.model_dump_json()})
    with pytest.raises(UsageError, match="int8 is for generators"):
        export_weights(run, tmp_path / "small", precision="int8", calibrate=["drawn"])

    monkeypatch.setenv("LIPSMITH_WEIGHTS", str(tmp_path / "weights"))
    card = export_weights(run, tmp_path / "weights" / "mine", precision="fp16", data=prepared)
    assert (card.kind, card.architecture, card.face_size) == ("expert", "dense-expert", 96)
    assert card.window_lead_seconds == Fraction(
        1, 25
    )  # its sound is longer than its three frames, on both sides
    assert card.trained_on == ("kept",) and card.use == "any"
    for named in ("mine", tmp_path / "weights" / "mine"):
        loaded = load_expert(named)
        assert loaded.frames == 3
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, expert.state_dict()[name].half().float(), rtol=0, atol=0)
    judge = resolve_judge("expert=mine")
    assert (judge.name, judge.digest) == ("expert mine", card.files["expert.safetensors"])
    with pytest.raises(WeightsError, match="'default' hold no expert but this kind of network: generator"):
        load_expert("default")
    with pytest.raises(WeightsError, match=r"no file called 'mien'\. Did you mean 'mine'"):
        load_expert("mien")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not the folder of a training"):
        export_weights(tmp_path, tmp_path / "mine")


def test_a_name_that_is_taken(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(WeightsError, match="exists already"):
        export_weights(run_folder, tmp_path / "mine")
    # Told before anything is read: calibration takes minutes.
    with pytest.raises(WeightsError, match="exists already"):
        export_weights(tmp_path / "nowhere", tmp_path / "mine")
