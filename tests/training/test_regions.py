import math

import numpy as np
import pytest
import torch

from lipsmith.reference import openness as openness_of_picture
from lipsmith.training.regions import (
    mouth_mask,
    movement,
    movement_cells,
    moving_mask,
    openness,
    within_reach,
)


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


def test_movement_is_the_deviation_over_time_of_the_brightness_of_cells() -> None:
    faces = torch.full((1, 4, 3, 96, 96), 0.5)
    faces[:, ::2, :, 60:64, 40:44] = 0.3  # one cell of 4 × 4 pixels: 0.3, 0.5, 0.3, 0.5
    faces[:, ::2, 0, 80, 40] = 1.0  # one blue pixel of another cell: 0.114 · 0.5 / 16 more
    found = movement(faces)
    assert found.shape == (1, 24, 24)
    still = 1e-5**0.5
    assert float(found[0, 15, 10]) == pytest.approx(math.hypot(0.1, still), rel=1e-4)
    assert float(found[0, 20, 10]) == pytest.approx(math.hypot(0.114 * 0.5 / 16 / 2, still), rel=1e-3)
    assert int((found > still * 1.01).sum()) == 2


@pytest.mark.parametrize("size", [96, 128, 288])
def test_movement_has_as_many_cells_for_every_size(size: int) -> None:
    assert movement_cells(moving_mask(size)).shape == (1, 1, 24, 24)
    assert movement(torch.rand(2, 5, 3, size, size)).shape == (2, 24, 24)


def test_openness_of_tensors_is_that_of_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96, 3), dtype=np.uint8)
    pictures[1, 2, 40:] //= 8
    wanted = [[openness_of_picture(picture) for picture in row] for row in pictures]
    got = openness(torch.from_numpy(pictures).permute(0, 1, 4, 2, 3) / 255)
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0.01)
