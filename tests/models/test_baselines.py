"""The baselines: shapes at every size, what they look at, and what they do not."""

import pytest
import torch

from lipsmith.models.generators import BASELINES, build_generator
from lipsmith.models.lipgan import LipGanDiscriminator
from lipsmith.models.wav2lip import FACE_SIZES


@pytest.mark.parametrize("form", BASELINES)
@pytest.mark.parametrize("face_size", FACE_SIZES)
@torch.inference_mode()
def test_faces_of_every_size(form: str, face_size: int) -> None:
    network = build_generator(form, 0.0625, face_size).eval()
    made = network(torch.randn(2, 1, 80, 16), torch.rand(2, 6, face_size, face_size))
    assert made.shape == (2, 3, face_size, face_size)
    assert made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize(("form", "looks"), [("lipgan", True), ("speech2vid", False)])
@torch.inference_mode()
def test_who_looks_at_the_target(form: str, looks: bool) -> None:
    torch.manual_seed(0)
    network = build_generator(form, 0.0625, 96).eval()
    mel, faces = torch.randn(1, 1, 80, 16), torch.rand(1, 6, 96, 96)
    other = torch.cat([torch.rand(1, 3, 96, 96), faces[:, 3:]], dim=1)
    assert torch.equal(network(mel, faces), network(mel, other)) is not looks
    assert not torch.equal(network(mel, faces), network(-mel, faces))
    other = torch.cat([faces[:, :3], torch.rand(1, 3, 96, 96)], dim=1)
    assert not torch.equal(network(mel, faces), network(mel, other))


def test_another_face_size_is_refused() -> None:
    for form in BASELINES:
        with pytest.raises(ValueError, match="face_size is 100; it can be 96"):
            build_generator(form, 1.0, 100)


def test_distances_of_unit_vectors() -> None:
    torch.manual_seed(0)
    discriminator = LipGanDiscriminator(0.0625).eval()
    faces = torch.rand(3, 3, 96, 96, requires_grad=True)
    distances = discriminator(torch.randn(3, 1, 80, 16), faces)
    assert distances.shape == (3,)
    assert distances.min() >= 0 and distances.max() <= 2
    distances.sum().backward()
    assert faces.grad is not None and torch.isfinite(faces.grad).all() and faces.grad.abs().max() > 0
