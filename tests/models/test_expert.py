import pytest
import torch

from lipsmith.models.expert import LipSyncExpert, sliding_windows


def test_windows_hold_five_frames_in_time_order() -> None:
    # Each pixel says which clip, frame and channel it is from.
    clip, frame, channel = torch.meshgrid(torch.arange(2), torch.arange(7), torch.arange(3), indexing="ij")
    frames = (100 * clip + 10 * frame + channel).float()[..., None, None].expand(2, 7, 3, 4, 8)
    windows = sliding_windows(frames)
    assert windows.shape == (2, 3, 15, 4, 8)
    assert windows[1, 2, :, 3, 5].tolist() == [100 + 10 * f + c for f in range(2, 7) for c in range(3)]


def test_fewer_than_five_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="4 frames are too few"):
        sliding_windows(torch.zeros(1, 4, 3, 48, 96))


@pytest.fixture(scope="module")
def expert() -> LipSyncExpert:
    torch.manual_seed(0)
    return LipSyncExpert(0.125).eval()


@torch.inference_mode()
def test_a_stretch_gives_what_its_windows_give_one_by_one(expert: LipSyncExpert) -> None:
    frames, mels = torch.rand(2, 7, 3, 48, 96), torch.randn(2, 3, 1, 80, 16)
    lips, sound = expert.embed_lips(frames), expert.embed_sound(mels)
    assert lips.shape == sound.shape == (2, 3, expert.embedding_size)
    for i in range(3):
        window_sound, window_lips = expert(mels[:, i], frames[:, i : i + 5].flatten(1, 2))
        torch.testing.assert_close(lips[:, i], window_lips, rtol=0, atol=1e-6)
        torch.testing.assert_close(sound[:, i], window_sound, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_embeddings_have_unit_length_and_no_negative_part(expert: LipSyncExpert) -> None:
    for embedding in (
        expert.embed_lips(torch.rand(1, 6, 3, 48, 96)),
        expert.embed_sound(torch.randn(1, 2, 1, 80, 16)),
    ):
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(1, 2))
        assert embedding.min() >= 0


@torch.inference_mode()
def test_larger_faces_are_seen_at_the_experts_size(expert: LipSyncExpert) -> None:
    small = torch.rand(1, 5, 3, 1, 1).expand(1, 5, 3, 48, 96)
    large = small[..., :1, :1].expand(1, 5, 3, 96, 192)
    torch.testing.assert_close(expert.embed_lips(large), expert.embed_lips(small), rtol=0, atol=1e-5)


def test_the_gradient_reaches_the_generated_frames(expert: LipSyncExpert) -> None:
    frames = torch.rand(1, 5, 3, 64, 128, requires_grad=True)
    sound = expert.embed_sound(torch.randn(1, 1, 1, 80, 16))
    (expert.embed_lips(frames) * sound).sum().backward()
    assert frames.grad is not None
    assert (frames.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()
