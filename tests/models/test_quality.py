import pytest
import torch

from lipsmith.models.quality import PatchDiscriminator, VisualQualityDiscriminator
from lipsmith.models.wav2lip import FACE_SIZES


@pytest.mark.parametrize("face_size", FACE_SIZES)
def test_every_frame_gets_one_probability_at_every_face_size(face_size: int) -> None:
    with torch.device("meta"):
        critic = VisualQualityDiscriminator(0.25, face_size)
        assert critic(torch.empty(2, 3, 5, face_size, face_size)).shape == (10, 1)


@pytest.fixture(scope="module")
def critic() -> VisualQualityDiscriminator:
    torch.manual_seed(0)
    return VisualQualityDiscriminator(0.125).eval()


@torch.inference_mode()
def test_the_batch_axis_is_time_major(critic: VisualQualityDiscriminator) -> None:
    faces = torch.rand(2, 3, 3, 96, 96)
    together = critic(faces)
    alone = torch.cat(
        [critic(faces[clip : clip + 1, :, frame : frame + 1]) for frame in range(3) for clip in range(2)]
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert 0 < together.min() <= together.max() < 1


@torch.inference_mode()
def test_only_the_lower_half_is_looked_at(critic: VisualQualityDiscriminator) -> None:
    faces = torch.rand(1, 3, 1, 96, 96)
    upper, lower = faces.clone(), faces.clone()
    upper[..., :48, :] = 0
    lower[..., 48:, :] = 0
    assert torch.equal(critic(upper), critic(faces))
    assert not torch.equal(critic(lower), critic(faces))


def test_patches_are_scored_at_an_eighth_of_the_side_and_see_the_reference() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(0.25).eval()
    faces, references = torch.rand(2, 3, 96, 96), torch.rand(2, 3, 96, 96)
    scores, features = critic(faces, references)
    assert scores.shape == (2, 1, 12, 24)
    assert [tuple(x.shape[1:]) for x in features] == [(16, 24, 48), (32, 12, 24), (64, 12, 24)]
    assert not torch.equal(critic(faces, references.flip(0))[0], scores)
    # Upper halves say nothing; a change of one pixel is seen by its own patches alone.
    above = faces.clone()
    above[..., :48, :] = 0
    torch.testing.assert_close(critic(above, references)[0], scores)
    changed = faces.clone()
    changed[..., 72, 48] += 0.5
    touched = (critic(changed, references)[0] - scores).abs().amax(dim=(0, 1)) > 1e-7
    rows, columns = touched.nonzero().unbind(1)
    assert touched.sum() > 0 and int(rows.max() - rows.min()) <= 6 and int(columns.max() - columns.min()) <= 6
