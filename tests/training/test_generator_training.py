"""Every recipe of a generator trains, at small and large faces; weights, terms and what a fine-tuned expert learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import DataError, RecipeError, UsageError, WeightsError
from lipsmith.evaluation.held_out import open_generator
from lipsmith.models.generators import build_generator
from lipsmith.models.wav2lip import FACE_SIZES
from lipsmith.training import train
from lipsmith.training.amplification import AmplifiedGenerator
from lipsmith.training.batch import StepTensors, generate_faces, middle_frames
from lipsmith.training.critics import make_critic
from lipsmith.training.distributed import Processes
from lipsmith.training.expert import load_expert
from lipsmith.training.fine_tuning import FineTunedExpert
from lipsmith.training.generator import GeneratorTraining
from lipsmith.training.recipe import GeneratorRecipe, load_recipe
from lipsmith.training.run import TrainingReport
from lipsmith.training.terms import Loss, clips_by_kind, evaluate_terms, total_loss, weights_at

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

TINY = {
    "model.width": 0.0625,
    "steps": 1,
    "batch.clips": 2,
    "batch.frames": 5,
    "batch.negatives": 3,
    "batch.least_reference_distance": 2,
    "validation_frames": 20,
    "data": {"validation": ["drawn_1"]},
}
EXPERT = """
task: expert
name: e
steps: 1
model: {width: 0.125, embedding: 16, dropout: 0}
batch: {stretches: [[2, 9]]}
validation_frames: 20
data: {validation: [drawn_1]}
"""
LARGE = """
task: generator
name: large
batch: {foreign_share: 0.5, reference: steady, reference_candidates: 2}
losses: {edges: 1.0, features: 0.05, sync: 0.01, adversarial: 0.01}
critic: {form: patch, width: 0.125, features: 1.0}
"""


def _draw(folder: Path, face_size: int) -> Path:
    prepare_synthetic(folder, num_speakers=2, clips_per_speaker=1, seconds=0.8, face_size=face_size)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared clips of two drawn people."""
    return _draw(tmp_path_factory.mktemp("drawn"), 96)


@pytest.fixture(scope="module")
def expert(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an expert that saw one batch."""
    folder = tmp_path_factory.mktemp("expert")
    (folder / "expert.yaml").write_text(EXPERT)
    train(folder / "expert.yaml", drawn, folder / "run")
    return folder / "run"


@pytest.mark.parametrize("name", ["wav2lip", "wav2lip_gan", "lipgan", "speech2vid"])
def test_the_papers_recipes_train_and_what_they_made_paints(
    name: str, drawn: Path, expert: Path, tmp_path: Path
) -> None:
    changes = TINY | ({"critic.width": 0.0625} if name in ("wav2lip_gan", "lipgan") else {})
    needs_expert = name.startswith("wav2lip")
    report = train(
        RECIPES / f"{name}.yaml",
        drawn,
        tmp_path / "run",
        expert=expert if needs_expert else None,
        overrides=changes,
    )
    assert report.best_step == report.steps == 1
    assert ("critic" in report.best) is (name in ("wav2lip_gan", "lipgan"))
    assert "sync" not in report.best  # it waits
    assert ("sync_loss" in report.best) is needs_expert
    picture = next((tmp_path / "run" / "samples").iterdir())
    assert picture.name == "step_0000001.png"
    generator = open_generator(str(tmp_path / "run"))
    assert generator.reference == ("still" if name == "speech2vid" else "frame")
    faces = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    assert generator.repaint(faces, np.zeros((2, 1, 80, 16), np.float32)).shape == faces.shape


@pytest.mark.slow
@pytest.mark.parametrize("face_size", [FACE_SIZES[1], FACE_SIZES[-1]])
def test_larger_faces_train(face_size: int, expert: Path, tmp_path: Path) -> None:
    data = _draw(tmp_path / "drawn", face_size)
    (tmp_path / "large.yaml").write_text(LARGE)
    report = train(
        tmp_path / "large.yaml",
        data,
        tmp_path / "run",
        expert=expert,
        overrides=TINY | {"model.face_size": face_size},
    )
    assert {"sync", "features", "critic", "preference"} <= report.best.keys()


def test_faces_of_another_size_are_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--face-size 128"):
        train(
            RECIPES / "speech2vid.yaml",
            drawn,
            tmp_path / "run",
            overrides=TINY | {"model.face_size": 128},
        )


def _recipe(**changes: object) -> GeneratorRecipe:
    plain = {"task": "generator", "name": "g", "steps": 10, "model": {"width": 0.0625}}
    return GeneratorRecipe.model_validate(plain | changes)


def test_a_training_begins_with_a_published_checkpoint(tmp_path: Path) -> None:
    training, begun = (GeneratorTraining(_recipe(), None, Processes()) for _ in range(2))
    tensors = {f"module.{name}": tensor for name, tensor in begun.generator.state_dict().items()}
    torch.save({"state_dict": tensors, "global_step": 3}, tmp_path / "wav2lip.pth")
    training.begin_with(tmp_path / "wav2lip.pth")
    for name, tensor in training.generator.state_dict().items():
        assert torch.equal(tensor, tensors[f"module.{name}"])
    wider = GeneratorTraining(_recipe(model={"width": 0.25}), None, Processes())
    with pytest.raises(WeightsError, match="not hold a generator of the recipe's dimensions"):
        wider.begin_with(tmp_path / "wav2lip.pth")
    with pytest.raises(WeightsError, match=r"absent\.pth cannot be read"):
        training.begin_with(tmp_path / "absent.pth")


@pytest.mark.parametrize("named", ["expert", "initial"])
def test_an_expert_begins_with_nothing(named: str, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "expert.yaml").write_text(EXPERT)
    with pytest.raises(UsageError, match=r"trains an expert.*leave out --expert and --initial"):
        train(tmp_path / "expert.yaml", drawn, tmp_path / "run", **{named: "judge"})
    assert not (tmp_path / "run").exists()


def test_weights_of_equation_six() -> None:
    recipe = load_recipe(RECIPES / "wav2lip_gan.yaml")
    assert isinstance(recipe, GeneratorRecipe)
    on = weights_at(recipe.losses, 10, 0)
    assert (on["reconstruction"], on["sync"], on["adversarial"]) == pytest.approx((0.90, 0.03, 0.07))
    waiting = weights_at(recipe.losses, 10, None)
    assert (waiting["reconstruction"], waiting["sync"]) == pytest.approx((0.93, 0))


def test_a_schedule_counts_from_where_its_term_was_let_in() -> None:
    losses = _recipe(losses={"sync": [[0, 0.1], [10, 0.2]]}).losses
    values = [weights_at(losses, step, 100)["sync"] for step in (99, 100, 105, 200)]
    assert values == pytest.approx([0, 0, 0.15, 0.2])
    assert weights_at(losses, 0, 0)["sync"] == pytest.approx(0.1)


def _batch(foreign: list[bool], frames: int = 5, sounds: int = 4) -> StepTensors:
    torch.manual_seed(0)
    count = len(foreign)
    faces = torch.rand(2, count, frames, 3, 96, 96)
    windows = torch.randn(count, frames + sounds, 1, 80, 16)
    flags = torch.tensor(foreign)
    return StepTensors(
        faces[0], faces[1], windows[:, :frames], windows, flags, tuple(range(count)), clips_by_kind(flags)
    )


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    from lipsmith.training.terms import build_terms

    recipe = _recipe(losses={"edges": 0.5})
    terms = build_terms(recipe, None, None)
    batch, generated = _batch([False, True, False, False, True]), torch.rand(5, 5, 3, 96, 96)
    weights = weights_at(recipe.losses, 0)
    whole = evaluate_terms(terms, weights, batch, generated)
    assert [(name, loss.weight) for name, loss in whole.items()] == [
        ("reconstruction", 1.0),
        ("edges", 0.5),
        ("still", 1.0),
    ]
    assert batch.whole == {"own": 3, "foreign": 2, "all": 5}
    parts = [
        evaluate_terms(terms, weights, batch.rows(part), generated[part])
        for part in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    assert "still" not in parts[0]
    for name, loss in whole.items():
        total = sum(float(part[name].value) for part in parts if name in part)
        assert total == pytest.approx(float(loss.value), rel=1e-6), name
    total = sum(float(total_loss(part)) for part in parts)
    assert total == pytest.approx(float(total_loss(whole)), rel=1e-6)
    assert float(total_loss({"a": Loss(2.0, torch.tensor(1.5)), "b": Loss(1.0, torch.tensor(0.5))})) == 3.5


def test_movement_is_compared_where_the_words_are_the_own() -> None:
    from lipsmith.training.terms import build_terms

    recipe = _recipe(losses={"movement": 2.0})
    terms = build_terms(recipe, None, None)
    batch = _batch([False, True])
    weights = weights_at(recipe.losses, 0)
    # The foreign clip stands still in both; the own one moves in the same way, at another time.
    batch.targets[:] = 0.5
    batch.targets[0, ::2, :, 60:84] = 0.3
    moving = batch.targets.clone()
    moving[0, ::2, :, 60:84], moving[0, 1::2, :, 60:84] = 0.5, 0.3
    loss = evaluate_terms(terms, weights, batch, batch.targets)["movement"]
    assert loss.weight == 2.0 and float(loss.value) == 0
    still = float(evaluate_terms(terms, weights, batch, torch.full_like(moving, 0.5))["movement"].value)
    late = float(evaluate_terms(terms, weights, batch, moving)["movement"].value)
    assert late == pytest.approx(0, abs=1e-6)  # three of five frames are dark, or two: as far apart
    # Deviation 0.2 · √(6 / 25) in six rows of 24 cells, of all that the mask looks at.
    assert 0.02 < still < 0.2 * (6 / 25) ** 0.5


def test_larger_movements_are_learnt_from_the_weights_that_a_training_begins_with(tmp_path: Path) -> None:
    losses = {"reconstruction": 0, "still": 0, "amplified": 1.0, "upper_share": 1.0, "mouth_gain": 0}
    recipe = _recipe(losses=losses, amplification={"factor": 2.0})
    training, begun = (GeneratorTraining(recipe, None, Processes()) for _ in range(2))
    torch.nn.init.normal_(begun.generator.output_block[1].weight, std=0.3)
    torch.save({"state_dict": begun.generator.state_dict()}, tmp_path / "begun.pth")
    training.begin_with(tmp_path / "begun.pth")
    batch = _batch([False, True])
    amplified = AmplifiedGenerator(begun.generator, recipe.amplification)
    wanted = generate_faces(amplified, batch.targets, batch.references, batch.frame_windows).detach()
    weights = weights_at(recipe.losses, 0)

    def loss(generated: torch.Tensor) -> float:
        return float(evaluate_terms(training.terms, weights, batch, generated)["amplified"].value)

    assert loss(wanted) == pytest.approx(0, abs=1e-5)
    # Brighter by 0.1 everywhere: the edges are the same.
    assert loss(wanted + 0.1) == pytest.approx(0.1, abs=1e-4)


def test_only_what_has_a_code_of_the_sound_can_be_amplified() -> None:
    recipe = _recipe(losses={"amplified": 1.0}, model={"form": "lipgan", "width": 0.0625})
    with pytest.raises(
        RecipeError, match=r"losses\.amplified is for generators of the forms wav2lip…, not lipgan"
    ):
        GeneratorTraining(recipe, None, Processes())


def test_an_amplification_needs_weights_to_begin_with_and_goes_on_without_them(
    drawn: Path, tmp_path: Path
) -> None:
    def learn(steps: int, run: str, **options: object) -> TrainingReport:
        changes = TINY | {"steps": steps, "validate_every": 1, "losses.sync": 0}
        return train(RECIPES / "amplification.yaml", drawn, tmp_path / run, overrides=changes, **options)

    with pytest.raises(
        RecipeError, match=r"'amplification' learns from earlier weights: name them with --initial"
    ):
        learn(1, "refused")
    assert not (tmp_path / "refused").exists()
    torch.manual_seed(0)
    save_file(
        build_generator("wav2lip-relight", TINY["model.width"], 96).state_dict(),
        tmp_path / "initial.safetensors",
    )
    learn(2, "whole", initial=tmp_path / "initial.safetensors")
    assert "amplified" in learn(1, "parts", initial=tmp_path / "initial.safetensors").best
    learn(2, "parts", resume=True)  # the checkpoint knows what it began with
    whole, parts = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_a_pair_is_learnt_from_what_weights_with_one_reference_make(tmp_path: Path) -> None:
    losses = {"reconstruction": 0, "still": 0, "paired": 1.0, "upper_share": 1.0, "mouth_gain": 0}
    recipe = _recipe(
        losses=losses, model={"form": "wav2lip-pair", "width": 0.0625}, batch={"reference": "pair"}
    )
    training = GeneratorTraining(recipe, None, Processes())
    begun = build_generator("wav2lip-relight", 0.0625, 96)
    torch.nn.init.normal_(begun.output_block[1].weight, std=0.3)
    torch.save({"state_dict": begun.state_dict()}, tmp_path / "begun.pth")
    training.begin_with(tmp_path / "begun.pth")
    assert training.pairing is not None
    batch = _batch([False, True])
    batch = replace(batch, references=torch.rand(2, 5, 6, 96, 96))
    wanted = training.pairing.wanted(batch.targets, batch.references, batch.frame_windows)
    weights = weights_at(recipe.losses, 0)

    def loss(at_rest: torch.Tensor, opened: torch.Tensor, share: torch.Tensor, seen: torch.Tensor) -> float:
        training.generator.parts = tuple(part.flatten(0, 1) for part in (at_rest, opened, share))
        return float(evaluate_terms(training.terms, weights, batch, seen)["paired"].value)

    assert loss(wanted.at_rest, wanted.opened, wanted.share, wanted.mixed) == pytest.approx(0, abs=1e-6)
    # Brighter by 0.1 everywhere, the edges are the same; a share that is off by 0.2 counts three tenths.
    assert loss(wanted.at_rest, wanted.opened, wanted.share, wanted.mixed + 0.1) == pytest.approx(
        0.1, abs=1e-4
    )
    assert loss(wanted.at_rest, wanted.opened + 0.1, wanted.share, wanted.mixed) == pytest.approx(
        0.1, abs=1e-4
    )
    assert loss(wanted.at_rest, wanted.opened, wanted.share + 0.2, wanted.mixed) == pytest.approx(
        0.06, abs=1e-4
    )


def test_only_a_pair_learns_from_two_references() -> None:
    recipe = _recipe(losses={"paired": 1.0})
    with pytest.raises(
        RecipeError, match=r"losses\.paired is for generators of the form wav2lip-pair, not wav2lip"
    ):
        GeneratorTraining(recipe, None, Processes())


def test_a_pairing_goes_on_as_if_it_had_not_been_stopped(drawn: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    initial = tmp_path / "initial.safetensors"
    save_file(build_generator("wav2lip-relight", TINY["model.width"], 96).state_dict(), initial)

    def learn(steps: int, run: str, **options: object) -> TrainingReport:
        changes = TINY | {"steps": steps, "validate_every": 1, "losses.sync": 0}
        # With a critic of patches, which sees one reference.
        changes |= {"losses.adversarial": 0.01, "critic": {"form": "patch", "width": 0.125}}
        return train(RECIPES / "pairing.yaml", drawn, tmp_path / run, overrides=changes, **options)

    learn(2, "whole", initial=initial)
    assert "paired" in learn(1, "parts", initial=initial).best
    learn(2, "parts", resume=True)
    whole, parts = (load_file(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_the_middle_frame_of_every_window() -> None:
    faces = torch.arange(7.0).view(1, 7, 1, 1, 1)
    assert middle_frames(faces, 5).flatten().tolist() == [2, 3, 4]
    assert middle_frames(faces, 3).flatten().tolist() == [1, 2, 3, 4, 5]
    assert middle_frames(faces, 1).flatten().tolist() == list(range(7))


class _Distances(nn.Module):
    """0.2 where face and sound have the same number in their first value, 0.9 otherwise."""

    def forward(self, mel: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return torch.where(mel[:, 0, 0, 0] == faces[:, 0, 0, 0], 0.2, 0.9)


def test_the_contrast_of_lipgans_discriminator() -> None:
    critic = make_critic(_recipe(critic={"form": "lipgan", "width": 0.0625}), window_frames=1)
    critic.model = _Distances()
    batch = _batch([False, True])
    for i in range(5):  # moment i of both clips
        batch.targets[:, i, 0, 0, 0] = batch.sync_windows[:, i, 0, 0, 0] = i
    generated = torch.full_like(batch.targets, -1)
    generated[:, 0, 0, 0, 0] = 0  # one of five frames says what it should
    assert float(critic.term(batch, generated)) == pytest.approx((0.2**2 + 4 * 0.9**2) / 5)
    # Real: near (0.2²); off sync: far enough by 0.1; generated: 0.1² four times, 0.8² once. The foreign clip has no
    # real pair.
    fake = (0.8**2 + 4 * 0.1**2) / 5
    assert float(critic.loss(batch, generated)) == pytest.approx((0.2**2 + (fake + 0.1**2) / 2) / 2, rel=1e-5)


def test_a_fine_tuned_expert_learns_to_tell_generated_faces(drawn: Path, expert: Path) -> None:
    recipe = _recipe(fine_tune_expert={"learning_rate": 1e-3})
    assert recipe.fine_tune_expert is not None
    pupil = FineTunedExpert(load_expert(expert), recipe.fine_tune_expert, recipe.sync_term)
    batch = _batch([False, False, True], frames=6)
    generated = torch.zeros_like(batch.targets)
    losses = []
    for _ in range(12):
        pupil.optimiser.zero_grad()
        loss = pupil.loss(batch, generated)
        loss.backward()
        pupil.optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        sound = pupil.model.embed_sound(batch.sync_windows[:2, :2])
        real, made = (
            (pupil.model.embed_lips(faces[:2, :, :, 48:]) * sound).sum(-1)
            for faces in (batch.targets, generated)
        )
    assert (real > made).all()
    nothing = pupil.loss(_batch([True, True]), torch.zeros(2, 5, 3, 96, 96))
    assert float(nothing.detach()) == 0 and nothing.requires_grad


def test_a_run_that_fine_tunes_keeps_both_experts(drawn: Path, expert: Path, tmp_path: Path) -> None:
    before = load_file(expert / "best.safetensors")
    train(
        RECIPES / "wav2lip.yaml",
        drawn,
        tmp_path / "run",
        expert=expert,
        overrides=TINY | {"fine_tune_expert": {"learning_rate": 1e-3}},
    )
    after = load_expert(tmp_path / "run" / "expert.safetensors").state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(RecipeError, match="--expert"):
        train(
            RECIPES / "speech2vid.yaml",
            drawn,
            tmp_path / "other",
            overrides=TINY | {"fine_tune_expert": {}},
        )
