"""The expert's losses, and what a training of it leaves behind, on drawn people and in a few steps."""

import json
import math
from pathlib import Path

import cv2
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import RecipeError, WeightsError
from lipsmith.models.expert import LipSyncExpert
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.training import train
from lipsmith.training.descent import autocast, resolve_precision
from lipsmith.training.expert import SyncCriterion, build_expert, load_expert
from lipsmith.training.losses import contrastive_sync_loss
from lipsmith.training.recipe import ExpertLoss, ExpertModel, load_recipe

RECIPE = """
task: expert
name: small
steps: 2
validate_every: 2
validation_frames: 40
model: {width: 0.125, embedding: 16, dropout: 0}
batch: {stretches: [[2, 10]]}
data: {validation: [drawn_2, drawn_3]}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    prepare_synthetic(folder, num_speakers=4, clips_per_speaker=1, seconds=1.6)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


class TestCriterion:
    def test_bce_of_known_cosines(self) -> None:
        criterion = SyncCriterion(ExpertLoss(name="bce"))
        lips = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
        sound = torch.tensor([[[0.6, 0.8], [0.6, 0.8]]])
        loss = criterion(lips, sound, torch.tensor([[True, False]]))
        assert loss.item() == pytest.approx(-(math.log(0.6) + math.log(0.4)) / 2, abs=1e-6)
        assert criterion.off_sync_share == 0.5

    def test_the_contrast_leaves_out_what_is_nearer_than_the_least_shift(self) -> None:
        torch.manual_seed(0)
        lips, sound = (torch.nn.functional.normalize(torch.randn(2, 9, 8), dim=-1) for _ in range(2))
        in_sync = torch.ones(2, 9, dtype=torch.bool)
        strict = SyncCriterion(ExpertLoss(temperature=0.2, least_negative_shift=1))
        tolerant = SyncCriterion(ExpertLoss(temperature=0.2, least_negative_shift=4))
        for criterion, ignored in ((strict, 0), (tolerant, 3)):
            expected = contrastive_sync_loss(lips, sound, 0.2, ignored).item()
            assert criterion(lips, sound, in_sync).item() == pytest.approx(expected)
        assert strict.off_sync_share == 0

    def test_a_learned_temperature_begins_where_the_recipe_says_and_has_a_floor(self) -> None:
        fixed = SyncCriterion(ExpertLoss(temperature=0.2))
        learned = SyncCriterion(ExpertLoss(temperature=0.2, learn_temperature=True))
        assert fixed.temperature == 0.2 and not fixed.state_dict()
        assert learned.temperature.item() == pytest.approx(0.2)
        moments = torch.eye(6)[None]
        learned(moments, moments, torch.ones(1, 6, dtype=torch.bool)).backward()
        # Every moment finds its own: a lower temperature would make the loss smaller still.
        assert learned.log_temperature.grad is not None and learned.log_temperature.grad > 0
        torch.nn.init.constant_(learned.log_temperature, -20)
        assert learned.temperature.item() == pytest.approx(SyncCriterion.LEAST_TEMPERATURE)


class TestRecipe:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"loss.name": "bce"}, "loss.name: bce reads the cosine as a probability"),
            ({"batch.stretches": [[2, 6]]}, r"\[2, 6\] is too small; a stretch needs a clip and at least 7"),
            ({"batch.stretches": [[2, 4]], "loss.name": "bce", "model.positive": True}, "at least 5 frames"),
            ({"batch.stretches": [[2, 9]], "loss.least_negative_shift": 5}, "at least 10 frames"),
        ],
    )
    def test_what_does_not_go_together(self, recipe: Path, changes: dict[str, object], words: str) -> None:
        with pytest.raises(RecipeError, match=words):
            load_recipe(recipe, changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"batch.stretches": [[2, 3]], "model.frames": 1},
            {"batch.stretches": [[64, 5]], "loss.name": "bce", "model.form": "paper"},
            {"batch.stretches": [[2, 10]], "loss.least_negative_shift": 5},
        ],
    )
    def test_what_does(self, recipe: Path, changes: dict[str, object]) -> None:
        load_recipe(recipe, changes)


@pytest.mark.parametrize("frames", [1, 3, 5])
@pytest.mark.parametrize("form", ["dense", "paper"])
def test_the_run_knows_t_v(drawn: Path, recipe: Path, tmp_path: Path, form: str, frames: int) -> None:
    changes = {"model.frames": frames, "model.form": form, "steps": 1, "validate_every": 1}
    train(recipe, drawn, tmp_path / "run", overrides=changes)
    with safe_open(tmp_path / "run" / "best.safetensors", "pt") as file:
        assert json.loads(file.metadata()["model"])["frames"] == frames
    expert = load_expert(tmp_path / "run")
    assert expert.frames == frames
    assert expert.embed_lips(torch.rand(1, 8, 3, 48, 96)).shape[1] == 9 - frames
    written = json.loads((tmp_path / "run" / "accuracy" / "step_0000001.json").read_text())
    assert (written["frames"], written["num_clips"]) == (frames, 2)
    assert written["num_windows"] == 2 * (41 - frames)


@pytest.mark.usefixtures("drawing")
def test_validations_are_logged_and_drawn(drawn: Path, recipe: Path, tmp_path: Path) -> None:
    done = train(recipe, drawn, tmp_path / "run")
    (line,) = (json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    known = {"loss", "accuracy", "accuracy_at_half", "threshold", "preference", "retrieval", "confidence"}
    assert known < line.keys()
    assert "temperature" not in line
    written = json.loads((tmp_path / "run" / "accuracy" / "step_0000002.json").read_text())
    assert written["threshold_from"] == "training clips"
    assert line["accuracy"] == pytest.approx(written["accuracy"]["value"], abs=1e-5)
    assert done.best["accuracy"] == pytest.approx(written["accuracy"]["value"])
    assert len(written["shifts"]) == 15 and len(written["sync"]["curve"]) == 31
    assert cv2.imread(str(tmp_path / "run" / "accuracy" / "step_0000002.png")).shape == (600, 880, 3)
    curves = cv2.imread(str(tmp_path / "run" / "curves.png"))
    names = [name for name in line if name not in ("step", "seconds", "skipped")]
    assert curves.shape == (192 * math.ceil(len(names) / 3), 960, 3)
    assert (curves == (180, 119, 31)).all(axis=-1).sum() > len(names)  # a dot in each plot


def test_the_papers_loss_trains(drawn: Path, recipe: Path, tmp_path: Path) -> None:
    changes = {
        "loss": {"name": "bce", "least_negative_shift": 1},
        "model.positive": True,
        "batch.stretches": [[4, 9]],
        "faces": {"colour": 0, "blur": 0, "noise": 0, "grey": 0},
        "steps": 24,
        "validate_every": 12,
        "optimiser": {"learning_rate": 2e-3, "warmup_steps": 0},
    }
    train(recipe, drawn, tmp_path / "run", overrides=changes)
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[1]["loss"] < lines[0]["loss"] < 2
    assert load_expert(tmp_path / "run").embed_sound(torch.randn(1, 2, 1, 80, 16)).min() >= 0


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_bf16_only_where_the_processor_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == precision and resolve_precision("bf16", cpu) == "bf16"
    with autocast("auto", cpu):
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")


def test_averaged_weights_are_what_is_validated_and_kept(drawn: Path, recipe: Path, tmp_path: Path) -> None:
    run, averaged, one_step = tmp_path / "run", {"average_decay": 0.5}, {"steps": 1, "validate_every": 1}
    train(recipe, drawn, run, overrides={**averaged, **one_step})
    first = torch.load(run / "checkpoint.pt", weights_only=True)["parts"]
    train(recipe, drawn, run, overrides=averaged, resume=True)
    parts = torch.load(run / "checkpoint.pt", weights_only=True)["parts"]
    # So early 2/11 of the average are kept, not yet half of it.
    expected = {name: first["average"][name].lerp(value, 9 / 11) for name, value in parts["expert"].items()}
    torch.testing.assert_close(parts["average"], expected)
    without = tmp_path / "without"
    train(recipe, drawn, without)
    latest = torch.load(without / "checkpoint.pt", weights_only=True)["parts"]
    assert "average" not in latest
    torch.testing.assert_close(load_file(without / "best.safetensors"), latest["expert"], rtol=0, atol=0)


def test_a_learned_temperature_survives_an_interruption(drawn: Path, recipe: Path, tmp_path: Path) -> None:
    changes = {"loss.learn_temperature": True, "optimiser.learning_rate": 0.05, "optimiser.warmup_steps": 0}
    # The rate must not depend on the number of steps, which differs between the runs.
    whole = {**changes, "optimiser.decay_steps": 4, "steps": 4}
    train(recipe, drawn, tmp_path / "whole", overrides=whole)
    train(recipe, drawn, tmp_path / "parts", overrides={**whole, "steps": 2})
    train(recipe, drawn, tmp_path / "parts", overrides=whole, resume=True)
    first, second = (
        [json.loads(text) for text in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert first[0]["temperature"] != pytest.approx(0.07, abs=1e-3)
    for measure in ("temperature", "loss", "accuracy"):
        assert [line[measure] for line in second] == [line[measure] for line in first]
    whole_weights = load_file(tmp_path / "whole" / "best.safetensors")
    for name, tensor in load_file(tmp_path / "parts" / "best.safetensors").items():
        assert torch.equal(tensor, whole_weights[name]), name


class TestLoading:
    def test_a_published_checkpoint(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        published = LipSyncExpert(0.125)
        state = {f"module.{name}": tensor for name, tensor in published.state_dict().items()}
        torch.save({"state_dict": state, "global_step": 7}, tmp_path / "expert.pth")
        loaded = load_expert(tmp_path / "expert.pth")
        assert loaded.frames == 5 and not loaded.training
        frames = torch.rand(1, 5, 3, 48, 96)
        torch.testing.assert_close(loaded.embed_lips(frames), published.eval().embed_lips(frames))
        assert not any(parameter.requires_grad for parameter in loaded.parameters())

    def test_weights_from_before_t_v_was_a_choice(self, tmp_path: Path) -> None:
        from lipsmith.training.run import save_weights

        model = json.loads(ExpertModel(width=0.125, embedding=16).model_dump_json())
        del model["frames"], model["positive"]
        save_weights(
            build_expert(ExpertModel(width=0.125, embedding=16)),
            tmp_path / "best.safetensors",
            {"model": json.dumps(model)},
        )
        assert load_expert(tmp_path).frames == 5

    def test_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="cannot be read"):
            load_expert(tmp_path)
        torch.save(Wav2Lip(0.125).state_dict(), tmp_path / "generator.pth")
        with pytest.raises(WeightsError, match="what is needed is: expert"):
            load_expert(tmp_path / "generator.pth")
