import pytest
import torch

from lipsmith.models.quality import VisualQualityDiscriminator
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
