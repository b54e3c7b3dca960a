import pytest
import torch
from torch import nn

from lipsmith.conditioning import face_channels, lower_half
from lipsmith.models.wav2lip import (
    FACE_SIZES,
    GENERATORS,
    PairedWav2Lip,
    RelightingWav2Lip,
    WarpingWav2Lip,
    Wav2Lip,
    paint_with,
)


@pytest.mark.parametrize("face_size", FACE_SIZES)
def test_every_face_size_comes_out_as_it_went_in(face_size: int) -> None:
    with torch.device("meta"):
        network = Wav2Lip(0.25, face_size)
        generated = network(torch.empty(2, 1, 80, 16), torch.empty(2, 6, face_size, face_size))
    assert generated.shape == (2, 3, face_size, face_size)


def test_the_published_network_has_36_3_million_parameters() -> None:
    with torch.device("meta"):
        network = Wav2Lip()
    assert sum(tensor.numel() for tensor in network.parameters()) == 36_298_035


@torch.inference_mode()
def test_a_face_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    torch.manual_seed(0)
    network = Wav2Lip(0.125).eval()
    mel, faces = torch.randn(4, 1, 80, 16), torch.rand(4, 6, 96, 96)
    together = network(mel, faces)
    alone = torch.cat([network(mel[i : i + 1], faces[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert 0 <= together.min() < together.max() <= 1


def test_the_gradient_reaches_sound_and_face_and_inputs_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = Wav2Lip(0.125)
    mel = torch.randn(2, 1, 80, 16, requires_grad=True)
    faces = torch.rand(2, 6, 96, 96, requires_grad=True)
    before = faces.detach().clone()
    network(mel, faces).mean().backward()
    assert mel.grad is not None and mel.grad.abs().sum() > 0
    assert faces.grad is not None and faces.grad.abs().sum() > 0
    assert torch.equal(faces.detach(), before)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("form", GENERATORS)
@pytest.mark.parametrize(("face_size", "top"), [(96, 32), (128, 40), (288, 96)])
@torch.inference_mode()
def test_the_lower_half_is_the_same_where_no_more_is_painted(form: str, face_size: int, top: int) -> None:
    torch.manual_seed(0)
    network = GENERATORS[form](0.125, face_size).eval()
    for parameter in network.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    mel, faces = (
        torch.randn(1, 1, 80, 16),
        torch.rand(1, face_channels(network.num_references), face_size, face_size),
    )
    whole = network(mel, faces)
    network.paint_lower_part()
    part = network(mel, faces)
    torch.testing.assert_close(lower_half(part), lower_half(whole), rtol=0, atol=1e-5)
    assert torch.equal(part[:, :, :top], faces[:, :3, :top])
    assert not torch.equal(part[:, :, top], faces[:, :3, top])


def test_impossible_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="face_size is 100; it can be 96, 128"):
        Wav2Lip(face_size=100)
    with pytest.raises(ValueError, match="width is 0"):
        Wav2Lip(width=0)


def _warping(width: float = 0.125) -> WarpingWav2Lip:
    torch.manual_seed(0)
    network = WarpingWav2Lip(width).eval()
    last = network.output_block[1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network


@torch.inference_mode()
def test_a_warping_generator_that_paints_nothing_shows_the_reference_moved_by_its_flow() -> None:
    network = _warping()
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 96, 96)
    bias = network.output_block[1].bias
    bias[3] = -40.0  # take nothing of the colour
    torch.testing.assert_close(network(mel, faces), faces[:, 3:], rtol=0, atol=1e-5)
    # A flow of three pixels to the right: every pixel shows what lies three pixels to its right.
    bias[4] = torch.atanh(torch.tensor(3 / (96 * WarpingWav2Lip.LARGEST_FLOW)))
    made = network(mel, faces)
    torch.testing.assert_close(made[..., :-3], faces[:, 3:, :, 3:], rtol=0, atol=1e-4)
    bias[4], bias[5] = 0.0, torch.atanh(torch.tensor(-2 / (96 * WarpingWav2Lip.LARGEST_FLOW)))
    torch.testing.assert_close(network(mel, faces)[..., 2:, :], faces[:, 3:, :-2], rtol=0, atol=1e-4)
    bias[3] = 40.0  # nothing but the colour, which is grey
    torch.testing.assert_close(network(mel, faces), torch.full((2, 3, 96, 96), 0.5), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_painters_tensors_begin_a_warping_generator() -> None:
    torch.manual_seed(1)
    painter, network = Wav2Lip(0.125).eval(), WarpingWav2Lip(0.125).eval()
    paint_with(network, painter.state_dict())
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 96, 96)
    # Half the painter's picture, half the reference, unmoved.
    torch.testing.assert_close(
        network(mel, faces), (painter(mel, faces) + faces[:, 3:]) / 2, rtol=0, atol=1e-5
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        paint_with(WarpingWav2Lip(0.25), painter.state_dict())


@torch.inference_mode()
def test_a_relighting_generator_keeps_tints() -> None:
    torch.manual_seed(0)
    network = RelightingWav2Lip(0.125).eval()
    last = network.output_block[1]
    nn.init.zeros_(last.weight)
    last.bias.copy_(torch.tensor([40.0, -40.0, -40.0, 0.0, 0.0, 0.0]))  # half of pure blue, luma 0.114
    mel, faces = torch.randn(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)
    skin = torch.tensor([0.4, 0.5, 0.8])
    faces[:, 3:] = skin.view(1, 3, 1, 1)
    weights = torch.tensor([0.114, 0.587, 0.299])
    luma = float(skin @ weights)
    change = (torch.tensor([1.0, 0.0, 0.0]) - skin) / 2
    lighter = (0.114 - luma) / 2
    factor = (luma + lighter + 0.02) / (luma + 0.02)
    shaded = skin * factor ** torch.tensor([0.25, 0.22, -0.28])
    dimmed = shaded * (luma + lighter) / (shaded @ weights)
    expected = 0.75 * dimmed + 0.25 * (skin + change)
    torch.testing.assert_close(network(mel, faces)[0, :, 50, 50], expected, rtol=0, atol=1e-5)
    network.paint_chroma.zero_()
    dark = network(mel, faces)[0, :, 50, 50]
    assert float(dark @ weights) == pytest.approx(luma + lighter, abs=1e-5)
    # Redder in the shade: at a third of its light a grey tooth is 1.7 times as red as green.
    assert float((dark[2] / dark[1]) / (skin[2] / skin[1])) == pytest.approx(factor**-0.5, rel=1e-4)
    last.bias.copy_(torch.tensor([40.0, 40.0, 40.0, 0.0, 0.0, 0.0]))  # half of white
    # White paint has no tint: neither has the light (teeth).
    lit = skin + (1 - luma) / 2
    torch.testing.assert_close(network(mel, faces)[0, :, 50, 50], lit.clamp(max=1), rtol=0, atol=1e-5)
    faces[:, 3:] /= 4
    half_as_tinted = (skin + luma) / 2
    last.bias.copy_(torch.cat((torch.logit(half_as_tinted), torch.zeros(3))))
    lit = network(mel, faces)[0, :, 50, 50]
    lighter = (luma - luma / 4) / 2
    torch.testing.assert_close(lit, skin / 4 + lighter * half_as_tinted / luma, rtol=0, atol=1e-5)
    last.bias.copy_(torch.cat((torch.logit(skin * 0.9), torch.zeros(3))))  # the person's very tint: it stays
    lit = network(mel, faces)[0, :, 50, 50]
    torch.testing.assert_close(lit / lit.sum(), skin / skin.sum(), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_teeth_in_sight_are_spared_most_of_the_shade() -> None:
    network = RelightingWav2Lip(0.125).eval()
    network.paint_chroma.zero_()
    last = network.output_block[1]
    nn.init.zeros_(last.weight)
    last.bias.copy_(torch.tensor([-40.0, -40.0, -40.0, 0.0, 0.0, 0.0]))  # half of black
    weights = torch.tensor([0.114, 0.587, 0.299])
    mel, faces = torch.randn(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)

    def light_left(face: torch.Tensor, tooth: torch.Tensor) -> tuple[float, float]:
        faces[:, 3:] = face.view(1, 3, 1, 1)
        faces[:, 3:, 50:52, 40:56] = tooth.view(1, 3, 1, 1)
        seen = network(mel, faces)[0]
        return tuple(
            float((seen[:, row, 48] @ weights) / (given @ weights))
            for row, given in ((50, tooth), (70, face))
        )  # type: ignore[return-value]

    skin, white = torch.tensor([0.4, 0.5, 0.8]), torch.tensor([0.7, 0.7, 0.7])
    # Of half the light a tooth loses four tenths, the lip all of it; in a grey picture there are no teeth.
    assert light_left(skin, white) == pytest.approx((1 - 0.5 * 0.4, 0.5), abs=1e-3)
    assert light_left(white * 0.8, white) == pytest.approx((0.5, 0.5), abs=1e-3)
    assert light_left(skin, skin * 1.2) == pytest.approx((0.5, 0.5), abs=1e-3)  # a lit lip
    assert light_left(skin, white * 0.4) == pytest.approx((0.5, 0.5), abs=1e-3)  # what lies in the dark


@torch.inference_mode()
@pytest.mark.parametrize("size", [96, 192])
def test_lips_in_sight_keep_their_tint_and_most_of_their_shade(size: int) -> None:
    network = RelightingWav2Lip(0.125, size).eval()
    network.paint_chroma.zero_()
    last = network.output_block[1]
    nn.init.zeros_(last.weight)
    last.bias.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))  # half of light grey
    weights = torch.tensor([0.114, 0.587, 0.299])
    mel, faces = torch.randn(1, 1, 80, 16), torch.zeros(1, 6, size, size)
    place = slice(66 * size // 96, 70 * size // 96), slice(36 * size // 96, 60 * size // 96)

    def painted(mouth: torch.Tensor) -> tuple[float, float, float]:
        """Of the light asked for, what the mouth and the skin get; red over green there, over what it was."""
        faces[:, 3:] = skin.view(1, 3, 1, 1)
        faces[:, 3:, *place] = mouth.view(1, 3, 1, 1)
        seen = network(mel, faces)[0]
        made, beside = seen[:, 68 * size // 96, size // 2], seen[:, 90 * size // 96, size // 2]
        asked = torch.sigmoid(torch.tensor(1.0))
        shares = [
            float(((new - old) @ weights) / ((asked - old @ weights) / 2))
            for new, old in ((made, mouth), (beside, skin))
        ]
        return *shares, float((made[2] / made[1]) / (mouth[2] / mouth[1]))

    skin = torch.tensor([0.25, 0.35, 0.5])
    lips, inside = torch.tensor([0.2, 0.2, 0.4]), torch.tensor([0.04, 0.04, 0.08])
    assert painted(lips) == pytest.approx((0.75, 1, 1), abs=1e-3)
    assert painted(skin * 0.8)[:2] == pytest.approx((1, 1), abs=1e-3)  # a shadow
    light, _, tint = painted(inside)  # a mouth that closes: as much light as was asked for, and not so red
    assert light == pytest.approx(1, abs=1e-3)
    assert tint < 0.7
    skin = torch.full((3,), 0.4)
    assert painted(skin * 0.6)[:2] == pytest.approx((1, 1), abs=1e-3)  # no tints, no lips


@torch.inference_mode()
def test_a_warping_generators_tensors_begin_a_relighting_one() -> None:
    torch.manual_seed(1)
    warping, network = WarpingWav2Lip(0.125).eval(), RelightingWav2Lip(0.125).eval()
    paint_with(network, warping.state_dict())
    network.paint_chroma.fill_(1.0)
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 96, 96) * 0.2 + 0.7
    last = warping.output_block[1], network.output_block[1]
    for head in last:
        head.bias[:3] = 1.0
        head.weight[:3] *= 0.01
    # With the whole tint and nothing spared it is the same picture.
    network.LIPS_SPARED = 0.0
    made, painted = network(mel, faces), warping(mel, faces)
    torch.testing.assert_close(made, painted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_pair_shows_as_much_of_the_open_mouth_as_it_is_told() -> None:
    torch.manual_seed(0)
    network = PairedWav2Lip(0.125).eval()
    for block in (network.output_block, network.open_output_block):
        nn.init.zeros_(block[1].weight)
        block[1].bias.copy_(
            torch.tensor([0.0, 0.0, 0.0, -40.0, 0.0, 0.0])
        )  # nothing is painted, nothing moved
    opening = network.opening_block[1]
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 9, 96, 96)
    for logit, share in ((-40.0, 0.0), (40.0, 1.0), (float(torch.logit(torch.tensor(0.4))), 0.37)):
        opening.bias.fill_(logit / 8)
        expected = (1 - share) * faces[:, 3:6] + share * faces[:, 6:]
        torch.testing.assert_close(network(mel, faces), expected, rtol=0, atol=1e-5)
    # Each head moves its own: here the open mouth, by two rows.
    opening.bias.fill_(40.0)
    network.open_output_block[1].bias[5] = torch.atanh(torch.tensor(2 / (96 * WarpingWav2Lip.LARGEST_FLOW)))
    torch.testing.assert_close(network(mel, faces)[..., :-2, :], faces[:, 6:, 2:], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_relighting_generators_tensors_begin_a_pair_that_makes_the_same_of_either_mouth() -> None:
    torch.manual_seed(1)
    network, one = PairedWav2Lip(0.125).eval(), RelightingWav2Lip(0.125).eval()
    nn.init.normal_(one.output_block[1].weight, std=0.3)
    paint_with(network, one.state_dict())
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 96, 96)
    head = network.head(mel, torch.cat((faces, torch.rand(2, 3, 96, 96)), dim=1))
    # It does not look at the open mouth yet; both heads are the one's.
    for part in (head[:, :6], head[:, 6:12]):
        torch.testing.assert_close(part, one.head(mel, faces), rtol=0, atol=1e-5)
    twice = torch.cat((faces, faces[:, 3:]), dim=1)
    torch.testing.assert_close(network(mel, twice), one(mel, faces), rtol=0, atol=1e-5)
    assert float(torch.sigmoid(head[:, 12]).max()) < 0.13  # a share of 1.3 times that, less 0.15
    nn.init.zeros_(network.opening_block[0].conv_block[0].weight)
    network.opening_block[1].bias.fill_(-40.0)
    nn.init.normal_(network.open_output_block[1].weight)
    back = RelightingWav2Lip(0.125).eval()
    paint_with(back, network.state_dict())
    torch.testing.assert_close(back(mel, faces), one(mel, faces), rtol=0, atol=1e-5)
    again = PairedWav2Lip(0.125).eval()
    paint_with(again, network.state_dict())
    torch.testing.assert_close(again(mel, twice), network(mel, twice))
