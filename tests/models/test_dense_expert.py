"""The dense expert: windows of a stretch, whatever T_v is."""

import pytest
import torch

from lipsmith.models.dense_expert import DenseLipSyncExpert


def dense(**options: object) -> DenseLipSyncExpert:
    torch.manual_seed(0)
    return DenseLipSyncExpert(0.25, 16, **options).eval()  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_stretch_gives_what_its_windows_give_one_by_one(fusion: str, frames: int) -> None:
    expert = dense(fusion=fusion, frames=frames)
    stretch, mels = torch.rand(2, 7, 3, 48, 96), torch.randn(2, 8 - frames, 1, 80, 16)
    lips, sound = expert.embed_lips(stretch), expert.embed_sound(mels)
    assert lips.shape == sound.shape == (2, 8 - frames, 16)
    for i in range(8 - frames):
        heard, seen = expert(mels[:, i], stretch[:, i : i + frames].flatten(1, 2))
        torch.testing.assert_close(lips[:, i], seen, rtol=0, atol=1e-5)
        torch.testing.assert_close(sound[:, i], heard, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("fusion", "frames"), [("late", 1), ("late", 3), ("early", 3)])
def test_a_window_sees_its_own_frames_alone(fusion: str, frames: int) -> None:
    expert = dense(fusion=fusion, frames=frames)
    stretch = torch.rand(1, 7, 3, 48, 96)
    changed = stretch.clone()
    changed[:, 4] = 1 - changed[:, 4]
    difference = (expert.embed_lips(stretch) - expert.embed_lips(changed)).abs().amax(dim=(0, 2))
    seen = [i for i in range(8 - frames) if difference[i] > 1e-6]
    assert seen == list(range(4 - frames + 1, min(5, 8 - frames)))


def test_five_frames_keep_their_tensors() -> None:
    """Weights trained before T_v was a choice load into today's network."""
    tensors = dense().state_dict()
    assert tensors["lip_time.weight"].shape == (64, 64, 5)
    assert tensors["stem.weight"].shape == (16, 3, 5, 5)
    assert dense(fusion="early").state_dict()["stem.weight"].shape == (16, 15, 5, 5)
    assert {name.split(".")[0] for name in tensors} == {
        "stem",
        "lip_encoder",
        "lip_feature",
        "lip_time",
        "lip_head",
        "sound_encoder",
        "sound_feature",
        "sound_head",
    }


@torch.inference_mode()
def test_positive_embeddings_have_a_cosine_that_can_be_a_probability() -> None:
    frames, mels = torch.rand(1, 9, 3, 48, 96), torch.randn(1, 5, 1, 80, 16)
    plain, positive = dense(), dense(positive=True)
    assert plain.embed_lips(frames).min() < 0
    for embedding in (positive.embed_lips(frames), positive.embed_sound(mels)):
        assert embedding.min() >= 0
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(1, 5))


@pytest.mark.parametrize("fusion", ["late", "early"])
def test_lips_of_larger_faces_are_resampled(fusion: str) -> None:
    expert = dense(fusion=fusion)
    lips = torch.rand(1, 6, 3, 48, 96)
    larger = lips.repeat_interleave(2, -2).repeat_interleave(2, -1)
    assert expert.embed_lips(larger).shape == (1, 2, expert.embedding_size)
    flat = torch.full((1, 6, 3, 48, 96), 0.25)
    torch.testing.assert_close(
        expert.embed_lips(torch.full((1, 6, 3, 128, 256), 0.25)), expert.embed_lips(flat)
    )


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="'late' or 'early'"):
        DenseLipSyncExpert(fusion="middle")
