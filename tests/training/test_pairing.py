"""The teacher of a generator with two references: what it makes of both, and how much of the second."""

import pytest
import torch

from lipsmith.models.wav2lip import PairedWav2Lip, RelightingWav2Lip
from lipsmith.training.batch import generate_faces
from lipsmith.training.pairing import Pairing

WIDTH = 0.0625


def _copying() -> RelightingWav2Lip:
    """Shows the reference as it is."""
    network = RelightingWav2Lip(WIDTH)
    torch.nn.init.zeros_(network.output_block[1].weight)
    with torch.no_grad():
        network.output_block[1].bias.copy_(torch.tensor([0.0, 0, 0, -40, 0, 0]))
    return network


def _mouth(amplitude: float) -> torch.Tensor:
    """A grey face, (3, 96, 96), with a mouth of two stripes, the more open the more they differ."""
    face = torch.full((3, 96, 96), 0.4)
    face[:, 62:70, 36:60] += amplitude
    face[:, 70:78, 36:60] -= amplitude
    return face


def _taught(network: RelightingWav2Lip) -> Pairing:
    pairing = Pairing(PairedWav2Lip(WIDTH))
    pairing.begin_with(network.state_dict())
    return pairing


def test_what_is_made_of_either_reference_is_the_teachers() -> None:
    torch.manual_seed(0)
    network = RelightingWav2Lip(WIDTH).eval()
    torch.nn.init.normal_(network.output_block[1].weight, std=0.3)
    targets, references = torch.rand(2, 3, 3, 96, 96), torch.rand(2, 3, 6, 96, 96)
    windows = torch.randn(2, 3, 1, 80, 16)
    wanted = _taught(network).wanted(targets, references, windows)
    with torch.no_grad():
        for made, reference in (
            (wanted.at_rest, references[:, :, :3]),
            (wanted.opened, references[:, :, 3:]),
        ):
            torch.testing.assert_close(made, generate_faces(network, targets, reference, windows))
    torch.testing.assert_close(
        wanted.mixed, (1 - wanted.share) * wanted.at_rest + wanted.share * wanted.opened, rtol=0, atol=1e-6
    )


def test_a_mouth_that_does_not_open_shows_nothing_of_the_open_one() -> None:
    targets = _mouth(0.1).expand(1, 4, -1, -1, -1)
    references = torch.cat((_mouth(0.02), _mouth(0.3))).expand(1, 4, -1, -1, -1)
    wanted = _taught(_copying()).wanted(targets, references, torch.randn(1, 4, 1, 80, 16))
    # A copy of the mouth at rest is as open as in silence.
    assert wanted.share.shape == (1, 4, 1, 1, 1)
    assert float(wanted.share.max()) == 0
    torch.testing.assert_close(wanted.mixed, references[:, :, :3], rtol=0, atol=1e-5)


def test_the_share_grows_with_the_opening_and_is_smooth_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipsmith.training import pairing

    openings = iter(
        [
            torch.tensor([[0.2] * 5]),  # in silence
            torch.tensor([[0.2, 0.2, 0.3, 0.2, 0.2]]),  # said: of the way to 0.6 a quarter, once
            torch.tensor([[0.6] * 5]),  # the open reference
        ]
    )
    monkeypatch.setattr(pairing, "openness", lambda faces: next(openings))
    faces = torch.rand(1, 5, 3, 96, 96)
    wanted = _taught(_copying()).wanted(faces, torch.cat((faces, faces), 2), torch.randn(1, 5, 1, 80, 16))
    x = (0.25 - 0.05) / (0.4 - 0.05)
    peak = x * x * (3 - 2 * x)
    expected = [peak * part / 9 for part in (1, 2, 3, 2, 1)]
    torch.testing.assert_close(wanted.share.flatten(), torch.tensor(expected), rtol=0, atol=1e-5)


def test_it_goes_on_with_the_tensors_that_it_had() -> None:
    torch.manual_seed(1)
    network = RelightingWav2Lip(WIDTH).eval()
    torch.nn.init.normal_(network.output_block[1].weight, std=0.3)
    before, after = _taught(network), Pairing(PairedWav2Lip(WIDTH))
    after.load_state_dict(before.state_dict())
    given = torch.rand(1, 2, 3, 96, 96), torch.rand(1, 2, 6, 96, 96), torch.randn(1, 2, 1, 80, 16)
    torch.testing.assert_close(after.wanted(*given).mixed, before.wanted(*given).mixed, rtol=0, atol=0)
