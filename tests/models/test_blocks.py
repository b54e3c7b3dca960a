import pytest
import torch

from lipsmith.models.blocks import ConvBlock, CriticBlock, halved_sides, scale_channels


@pytest.mark.parametrize(
    ("channels", "width", "scaled"),
    [
        (512, 1.0, 512),
        (384, 0.25, 96),
        (32, 0.25, 16),
        (16, 0.25, 16),
        (64, 0.3, 16),
        (512, 0.3, 152),
        (16, 2, 32),
    ],
)
def test_channels_are_multiples_of_8_and_at_least_16(channels: int, width: float, scaled: int) -> None:
    assert scale_channels(channels, width) == scaled


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (96, [96, 48, 24, 12, 6, 3]),
        (128, [128, 64, 32, 16, 8, 4]),
        (192, [192, 96, 48, 24, 12, 6, 3]),
        (288, [288, 144, 72, 36, 18, 9, 5, 3]),
    ],
)
def test_sides_are_halved_until_at_most_4_remain(side: int, sides: list[int]) -> None:
    assert halved_sides(side) == sides


def test_a_residual_block_with_silent_weights_is_a_relu() -> None:
    block = ConvBlock(16, 16, 3, 1, 1, residual=True).eval()
    torch.nn.init.zeros_(block.conv_block[0].weight)
    torch.nn.init.zeros_(block.conv_block[0].bias)
    x = torch.linspace(-1, 1, 16 * 9).view(1, 16, 3, 3)
    before = x.clone()
    assert torch.equal(block(x), torch.relu(x))
    assert torch.equal(x, before)  # what is done in place is done to the block's own tensors


def test_the_critic_leaks_a_hundredth() -> None:
    block = CriticBlock(1, 1, 1)
    torch.nn.init.ones_(block.conv_block[0].weight)
    torch.nn.init.zeros_(block.conv_block[0].bias)
    x = torch.tensor([-2.0, 3.0]).view(2, 1, 1, 1)
    assert block(x).flatten().tolist() == pytest.approx([-0.02, 3.0])
