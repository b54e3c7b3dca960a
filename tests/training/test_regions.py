import torch

from lipsmith.training.regions import mouth_mask, within_reach


def test_within_reach_of_the_mouth_only_its_brightness_is_learnt() -> None:
    torch.manual_seed(0)
    faces = torch.rand(2, 3, 96, 96, requires_grad=True)
    seen = within_reach(faces, "mouth")
    torch.testing.assert_close(seen, faces)
    # A loss of the blue channel alone: its slope comes back as brightness, all channels by their part in it.
    seen[:, 0].sum().backward()
    slope = faces.grad
    assert slope is not None
    middle = slope[0, :, 68, 48]
    torch.testing.assert_close(middle, torch.tensor([0.114, 0.587, 0.299]), rtol=0, atol=1e-3)
    assert float(slope[..., 92, 20].abs().max()) < 1e-3  # a speck beside the chin
    assert float(slope[..., 20, 48].abs().max()) < 1e-3
    torch.testing.assert_close(slope[0, 1], 0.587 * mouth_mask(96)[0, 0], rtol=0, atol=1e-6)


def test_within_reach_of_the_face_everything_is() -> None:
    faces = torch.rand(1, 3, 96, 96)
    assert within_reach(faces, "face") is faces
