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


def test_windows_of_three_frames() -> None:
    frames = torch.arange(6).float().view(1, 6, 1, 1, 1).expand(1, 6, 3, 2, 4)
    windows = sliding_windows(frames, 3)
    assert windows.shape == (1, 4, 9, 2, 4)
    assert windows[0, 1, ::3, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("length", "too_few"), [(5, 4), (3, 2)])
def test_fewer_frames_than_a_window_are_refused(length: int, too_few: int) -> None:
    with pytest.raises(ValueError, match=f"{too_few} frames are too few: a window has {length}"):
        sliding_windows(torch.zeros(1, too_few, 3, 48, 96), length)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 3])
def test_another_t_v_changes_the_first_convolution_alone(frames: int) -> None:
    published = LipSyncExpert(0.125).state_dict()
    ablation = LipSyncExpert(0.125, frames).eval()
    assert ablation.frames == frames
    shapes = {name: tuple(tensor.shape) for name, tensor in ablation.state_dict().items()}
    assert list(shapes) == list(published)
    changed = {name for name, shape in shapes.items() if shape != tuple(published[name].shape)}
    assert changed == {"face_encoder.0.conv_block.0.weight"}
    assert shapes["face_encoder.0.conv_block.0.weight"][1] == 3 * frames
    stretch = torch.rand(1, 7, 3, 48, 96)
    lips = ablation.embed_lips(stretch)
    assert lips.shape == (1, 8 - frames, ablation.embedding_size)
    _, alone = ablation(torch.randn(1, 1, 80, 16), stretch[:, 2 : 2 + frames].flatten(1, 2))
    torch.testing.assert_close(lips[:, 2], alone, rtol=0, atol=1e-6)


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
