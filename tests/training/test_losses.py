import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipsmith.training.losses import (
    adversarial_loss,
    contrast_with_moments,
    contrastive_sync_loss,
    cosine_bce_loss,
    discriminator_fake_loss,
    discriminator_real_loss,
    expert_sync_loss,
    generator_loss,
    hinge_discriminator_loss,
    reconstruction_loss,
)

LOSS_TOLERANCE = 1e-5


def load_seeded(parity: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("seeded", parity / "seeded.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestParity:
    def test_reconstruction_agrees_with_the_published_system(self, parity: Path) -> None:
        reference = np.load(parity / "losses.npz")
        target = load_seeded(parity).uniform("window", (2, 3, 5, 96, 96))
        loss = reconstruction_loss(torch.from_numpy(reference["generated"]), torch.from_numpy(target))
        assert loss.item() == pytest.approx(float(reference["l1"]), abs=LOSS_TOLERANCE)

    def test_sync_agrees_with_the_published_system(self, parity: Path) -> None:
        # The expert's embeddings are in the reference numbers; their cosine is its p_sync.
        reference = np.load(parity / "expert.npz")
        loss = expert_sync_loss(
            torch.from_numpy(reference["audio_embedding"]), torch.from_numpy(reference["face_embedding"])
        )
        expected = -np.log(reference["p_sync"]).mean()
        assert loss.item() == pytest.approx(float(expected), abs=LOSS_TOLERANCE)

    def test_all_terms_through_the_networks(self, parity: Path) -> None:
        expert_module = pytest.importorskip("lipsmith.models.expert")
        quality_module = pytest.importorskip("lipsmith.models.quality")
        seeded = load_seeded(parity)
        reference = np.load(parity / "losses.npz")
        generated = torch.from_numpy(reference["generated"])
        target = torch.from_numpy(seeded.uniform("window", (2, 3, 5, 96, 96)))

        def stand_in(model: torch.nn.Module, name: str) -> torch.nn.Module:
            state = {key: torch.from_numpy(value) for key, value in seeded.state_dict(name).items()}
            model.load_state_dict(state)
            return model.eval()

        expert = stand_in(expert_module.LipSyncExpert(), "expert")
        critic = stand_in(quality_module.VisualQualityDiscriminator(), "quality_discriminator")
        mel = torch.from_numpy(seeded.normal("mel", (2, 1, 80, 16)))
        lips = generated[:, :, :, 48:].transpose(1, 2).reshape(2, 15, 48, 96)
        with torch.no_grad():
            terms = {
                "sync": expert_sync_loss(*expert(mel, lips)),
                "perceptual": adversarial_loss(critic(generated)),
                "disc_real": discriminator_real_loss(critic(target)),
                "disc_fake": discriminator_fake_loss(critic(generated)),
            }
        for name, term in terms.items():
            assert term.item() == pytest.approx(float(reference[name]), abs=LOSS_TOLERANCE), name


class TestReconstruction:
    def test_mean_absolute_difference(self) -> None:
        assert reconstruction_loss(
            torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.2, 0.5, 0.6])
        ).item() == pytest.approx(0.2)

    def test_shapes_that_would_broadcast_are_refused(self) -> None:
        with pytest.raises(ValueError, match="shapes must be equal"):
            reconstruction_loss(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


class TestCosineBce:
    def test_known_answers(self) -> None:
        first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        second = torch.tensor([[3.0, 4.0], [5.0, 0.0]])  # cosines 0.6 and 1
        assert cosine_bce_loss(first, second).item() == pytest.approx(-math.log(0.6) / 2, abs=1e-6)
        labels = torch.tensor([0.0, 1.0])
        assert cosine_bce_loss(first, second, labels).item() == pytest.approx(-math.log(0.4) / 2, abs=1e-6)

    def test_an_undecided_expert_scores_ln_2(self) -> None:
        first = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
        second = torch.tensor([[0.5, math.sqrt(0.75)]]).repeat(4, 1)
        labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
        assert cosine_bce_loss(first, second, labels).item() == pytest.approx(math.log(2), abs=1e-6)

    def test_negative_cosine_is_finite(self) -> None:
        loss = cosine_bce_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        assert loss.item() == pytest.approx(100.0)

    def test_survives_autocast(self) -> None:
        first = torch.tensor([[0.6, 0.8]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cosine_bce_loss(first, torch.tensor([[1.0, 0.0]]))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(-math.log(0.6), abs=1e-6)


def test_adversarial_terms_have_opposite_labels() -> None:
    scores = torch.tensor([[0.25], [0.5]])
    assert adversarial_loss(scores).item() == pytest.approx(-(math.log(0.25) + math.log(0.5)) / 2)
    assert discriminator_real_loss(scores).item() == adversarial_loss(scores).item()
    assert discriminator_fake_loss(scores).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


class TestGeneratorLoss:
    def test_equation_6(self) -> None:
        loss = generator_loss(torch.tensor(0.1), torch.tensor(0.5), torch.tensor(0.7))
        assert loss.item() == pytest.approx(0.9 * 0.1 + 0.03 * 0.5 + 0.07 * 0.7)

    def test_weights_that_leave_nothing_are_refused(self) -> None:
        with pytest.raises(ValueError, match="exceed 1 together"):
            generator_loss(torch.tensor(0.1), sync_weight=0.6, adversarial_weight=0.5)


class TestContrastive:
    def test_orthogonal_moments_in_sync(self) -> None:
        # N orthogonal unit vectors: own cosine 1, all others 0; in the middle N − 2 candidates, at the ends N − 1.
        num_frames, temperature = 6, 0.5
        embeddings = torch.eye(num_frames)[None]
        own = math.exp(1 / temperature)
        middle = -math.log(own / (own + num_frames - 3))
        end = -math.log(own / (own + num_frames - 2))
        expected = (middle * (num_frames - 2) + end * 2) / num_frames
        loss = contrastive_sync_loss(embeddings, embeddings, temperature)
        assert loss.item() == pytest.approx(expected, abs=1e-6)

    def test_an_expert_that_answers_the_same_to_everything(self) -> None:
        embeddings = torch.nn.functional.normalize(torch.ones(3, 7, 4), dim=-1)
        loss = contrastive_sync_loss(embeddings, embeddings, 0.07, ignore_within=0)
        assert loss.item() == pytest.approx(math.log(7), abs=1e-5)

    def test_a_shift_within_the_tolerance_is_not_punished_by_its_own_sound(self) -> None:
        # Lips and sound are the same but for one frame: the true match is ignored, not called a negative.
        torch.manual_seed(0)
        moments = torch.nn.functional.normalize(torch.randn(1, 20, 64), dim=-1)
        lip, sound = moments[:, 1:], moments[:, :-1]
        tolerant = contrastive_sync_loss(lip, sound, 0.1, ignore_within=1)
        strict = contrastive_sync_loss(lip, sound, 0.1, ignore_within=0)
        assert strict.item() > tolerant.item() + 3

    def test_clips_do_not_contrast_with_each_other(self) -> None:
        torch.manual_seed(0)
        lip = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
        sound = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
        together = contrastive_sync_loss(lip, sound)
        alone = [contrastive_sync_loss(lip[i : i + 1], sound[i : i + 1]).item() for i in range(2)]
        assert together.item() == pytest.approx(sum(alone) / 2, rel=1e-5)

    def test_symmetric_in_lips_and_sound(self) -> None:
        torch.manual_seed(1)
        lip = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
        sound = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
        assert contrastive_sync_loss(lip, sound).item() == pytest.approx(
            contrastive_sync_loss(sound, lip).item(), rel=1e-6
        )

    def test_gradient_pulls_pairs_together(self) -> None:
        torch.manual_seed(2)
        lip = torch.randn(4, 10, 16, requires_grad=True)
        sound = torch.nn.functional.normalize(torch.randn(4, 10, 16), dim=-1)
        optimizer = torch.optim.Adam([lip], lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss = contrastive_sync_loss(torch.nn.functional.normalize(lip, dim=-1), sound)
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.05

    @pytest.mark.parametrize(("frames", "ignore_within"), [(2, 1), (5, 4), (1, 0)])
    def test_clips_without_negatives_are_refused(self, frames: int, ignore_within: int) -> None:
        embeddings = torch.zeros(1, frames, 4)
        with pytest.raises(ValueError, match="no negative"):
            contrastive_sync_loss(embeddings, embeddings, ignore_within=ignore_within)

    def test_different_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="one shape"):
            contrastive_sync_loss(torch.zeros(1, 8, 4), torch.zeros(1, 7, 4))


def test_a_contrast_with_moments_is_computed_in_full_precision_under_autocast() -> None:
    lip, sound = (F.normalize(torch.randn(2, count, 16), dim=-1) for count in (4, 9))
    expected = contrast_with_moments(lip, sound, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrast_with_moments(lip, sound, 0.07) == expected


def test_hinge_loss_of_a_discriminator_by_hand() -> None:
    real, generated = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    # (0 + 0) / 2 at the first place, (0.5 + 1.25) / 2 at the second, which counts three times as much.
    loss = hinge_discriminator_loss(real, generated, torch.tensor([1.0, 3.0]))
    assert float(loss) == pytest.approx(3 * 0.875 / 4)
