"""The lip-sync generator of the paper (section 3.4), at any width and face size."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lipsmith.conditioning import face_channels, first_painted_row, lower_half_start
from lipsmith.models.blocks import (
    ConvBlock,
    UpBlock,
    audio_encoder,
    halved_sides,
    residual_blocks,
    scale_channels,
)
from lipsmith.models.colour import luma

FACE_SIZES = (96, 128, 192, 256, 288)

# Published channels by resolution, full resolution first; deeper levels, which only larger faces have,
# repeat the last.
ENCODER_CHANNELS = (16, 32, 64, 128, 256, 512)
ENCODER_RESIDUALS = (0, 2, 3, 2, 2, 1)
DECODER_CHANNELS = (64, 128, 256, 384, 512)
CODE_CHANNELS = 512
HEAD_CHANNELS = 32


def _levels(published: tuple[int, ...], count: int) -> list[int]:
    """The first `count` of `published`, its last value repeated as often as needed."""
    return [published[min(level, len(published) - 1)] for level in range(count)]


class Wav2Lip(nn.Module):
    """Repaints the lower half of a face so that its mouth says a window of speech.

    A face encoder keeps its output at every resolution, an audio encoder makes a code of the sound, and the
    decoder grows the face from that code, taking in the encoder's output of each resolution on the way up
    (a U-Net whose bottleneck is the sound).

    Args:
        width: channels relative to the published network, each rounded to a multiple of 8 and at least 16.
        face_size: side of the face crop in pixels, one of `FACE_SIZES`. The side is halved (rounded up)
            until at most 4 remain; the bottleneck's kernel is what remains. 96 is the published layout.

    Size and cost of a frame (a multiply-add is two FLOP):

    ===== ========= ========== =============
    width face_size parameters multiply-adds
    ===== ========= ========== =============
    1     96        36.3 M     3.97 G
    0.5   96        9.1 M      1.04 G
    0.375 96        5.1 M      0.63 G
    0.25  96        2.3 M      0.34 G
    0.5   128       10.5 M     1.83 G
    0.25  128       2.6 M      0.59 G
    0.25  192       3.2 M      1.33 G
    0.25  256       3.5 M      2.36 G
    0.25  288       4.1 M      3.00 G
    ===== ========= ========== =============
    """

    num_references = 1
    """How many faces it sees beside the masked one."""
    top = 0
    """First row that is painted; the target's own pixels stay above it."""

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        if face_size not in FACE_SIZES:
            raise ValueError(f"face_size is {face_size}; it can be {', '.join(map(str, FACE_SIZES))}")
        if width <= 0:
            raise ValueError(f"width is {width}; it must be above 0")
        super().__init__()
        self.width = width
        self.face_size = face_size

        sides = halved_sides(face_size)
        encoded = [scale_channels(count, width) for count in _levels(ENCODER_CHANNELS, len(sides))]
        decoded = [scale_channels(count, width) for count in _levels(DECODER_CHANNELS, len(sides))]
        code = scale_channels(CODE_CHANNELS, width)
        kernel = sides[-1]

        encoder = [nn.Sequential(ConvBlock(face_channels(self.num_references), encoded[0], 7, 1, 3))]
        counts = _levels(ENCODER_RESIDUALS, len(sides))[1:]
        for (before, after), count in zip(pairwise(encoded), counts, strict=True):
            encoder.append(nn.Sequential(ConvBlock(before, after, 3, 2, 1), *residual_blocks(after, count)))
        encoder.append(nn.Sequential(ConvBlock(encoded[-1], code, kernel), ConvBlock(code, code, 1)))
        self.face_encoder_blocks = nn.ModuleList(encoder)

        self.audio_encoder = audio_encoder(width, num_deep_residuals=1)

        # Coarsest first. What each stage receives is the former's output followed by the encoder's of that
        # resolution.
        decoder = [
            nn.Sequential(ConvBlock(code, code, 1)),
            nn.Sequential(UpBlock(2 * code, decoded[-1], kernel, 1, 0), *residual_blocks(decoded[-1], 1)),
        ]
        for level in range(len(sides) - 2, -1, -1):
            received = decoded[level + 1] + encoded[level + 1]
            odd = sides[level] % 2
            up = UpBlock(received, decoded[level], 3, 2, 1, output_padding=1 - odd)
            decoder.append(nn.Sequential(up, *residual_blocks(decoded[level], 2)))
        self.face_decoder_blocks = nn.ModuleList(decoder)

        self.output_block = self._head(decoded[0] + encoded[0], scale_channels(HEAD_CHANNELS, width))

    def _head(self, received: int, channels: int) -> nn.Sequential:
        return nn.Sequential(ConvBlock(received, channels, 3, 1, 1), nn.Conv2d(channels, 3, 1), nn.Sigmoid())

    @property
    def sound_code(self) -> nn.Module:
        """See `lipsmith.models.articulation.Articulated`."""
        return self.face_decoder_blocks[0]

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generate one face for each window of sound.

        Args:
            mel: (n, 1, 80, 16), each frame's window of the mel, -4 to 4.
            faces: (n, 6, S, S), BGR 0 to 1: the target with its lower half zeroed, then the reference.

        Returns:
            (n, 3, S, S), BGR 0 to 1: the whole face, upper half included.
        """
        face = self.show(self.head(mel, faces), faces)
        return torch.cat((faces[:, :3, : self.top], face), dim=2) if self.top else face

    def paint_lower_part(self) -> None:
        """From now on paint only as much of the face as is pasted, and what that depends on.

        The lower half is as it was; it is had for two thirds of the work at full resolution.
        """
        self.top = first_painted_row(self.face_size)

    def head(self, mel: Tensor, faces: Tensor) -> Tensor:
        """What the last layer gives before it becomes colours, (n, C, S - top, S); arguments as of `forward`."""
        return self.output_block[:-1](self._decode(mel, faces)[-1])

    def show(self, head: Tensor, faces: Tensor) -> Tensor:
        """What is seen, (n, 3, S - top, S), of what `head` gave for the same faces."""
        return self.output_block[-1](head)

    def _decode(self, mel: Tensor, faces: Tensor) -> list[Tensor]:
        """What the decoder's stages give, coarsest first: 1, 3, 6, … S pixels a side; the head receives the last.

        Of the last there are S - top rows.
        """
        encoded, decoded = [], []
        x = faces
        for block in self.face_encoder_blocks:
            x = block(x)  # (n, C, S / 2^level, S / 2^level), at last (n, C, 1, 1)
            encoded.append(x)
        x = self.audio_encoder(mel)  # (n, C, 1, 1)
        for block in self.face_decoder_blocks:
            if self.top and len(encoded) == 1:  # S is even: a row becomes two
                x, encoded[0] = x[:, :, self.top // 2 :], encoded[0][:, :, self.top :]
            x = torch.cat((block(x), encoded.pop()), dim=1)
            decoded.append(x)
        return decoded


class WarpingWav2Lip(Wav2Lip):
    """`Wav2Lip` that moves the reference's pixels and paints only what was not there.

    The head gives, for each pixel, a colour, how much of it to take, and where in the reference the rest comes from.
    Lips and skin that only move keep the reference's sharpness, which a painter of this size does not reach. It takes
    references that lie on the face (the form `steady` of `lipsmith.reference`).

    Arguments and dimensions are those of `Wav2Lip`, the head's last layer excepted: its channels are blue, green, red,
    share, flow to the right and flow down.
    """

    LARGEST_FLOW = 0.125
    """Of the side: as far as pixels may come from."""
    FLOW_CELL = 4
    """Pixels of a cell of the flow: neighbours move together."""

    def _head(self, received: int, channels: int) -> nn.Sequential:
        last = nn.Conv2d(channels, 6, 1)
        nn.init.zeros_(last.weight[3:])
        nn.init.zeros_(last.bias[3:])  # type: ignore[index]
        return nn.Sequential(ConvBlock(received, channels, 3, 1, 1), last)

    def head(self, mel: Tensor, faces: Tensor) -> Tensor:
        """See `Wav2Lip.head`; C = 6: see the class."""
        return self.output_block(self._decode(mel, faces)[-1]).float()

    def show(self, head: Tensor, faces: Tensor) -> Tensor:
        """See `Wav2Lip.show`."""
        colour, share, flow = head.split((3, 1, 2), dim=1)
        flow = nn.functional.avg_pool2d(flow, self.FLOW_CELL)
        flow = nn.functional.interpolate(
            flow, scale_factor=float(self.FLOW_CELL), mode="bilinear", align_corners=False
        )
        # Positions run from -1 to 1 over the side.
        place = self._places(faces) + 2 * self.LARGEST_FLOW * torch.tanh(flow).permute(0, 2, 3, 1)
        moved = nn.functional.grid_sample(
            faces[:, 3:].float(), place, mode="bilinear", padding_mode="border", align_corners=False
        )
        return self._paint(moved, torch.sigmoid(colour), torch.sigmoid(share))

    def _paint(self, moved: Tensor, colour: Tensor, share: Tensor) -> Tensor:
        """What is seen, (n, 3, S, S), where of `colour` (n, 3, S, S) the `share` (n, 1, S, S) is laid over `moved`."""
        return share * colour + (1 - share) * moved

    def _places(self, faces: Tensor) -> Tensor:
        """Where each pixel itself lies, (1, S - top, S, 2): to the right, down."""
        size = self.face_size
        line = (torch.arange(size, device=faces.device, dtype=torch.float32) * 2 + 1) / size - 1
        down = line[self.top :, None].expand(-1, size)
        return torch.stack((line.expand_as(down), down), dim=-1)[None]


class RelightingWav2Lip(WarpingWav2Lip):
    """`WarpingWav2Lip` that paints light, and little colour: people it never saw keep the tints of their own faces.

    Where the paint is darker, the moved pixels are dimmed (a mouth that opens), where it is lighter, light is added
    (lips that close, teeth). Of the paint's own tint only a part gets through, `paint_chroma`. Few people in training
    make a painter that gives others violet teeth and pale lips; their brightness it does learn.

    What lies in the mouth's shade is redder than what was seen before it: dimming takes less from red than from blue
    and green. How much less was found on real faces: the logarithm of each channel over luma changes by about
    `SHADE_BGR` times that of the brightness. Added light has the tint of the person's face thereabouts, as much of it
    as the paint has: all for lips and skin, little for teeth.

    Teeth that are in sight are dimmed less than the paint asks: a mouth that opens over them shows them still, where
    a mean of many mouths is merely dark. They are what is about as bright as the lips and skin around and has far less
    tint; in a picture without tints there are none.

    Lips in sight keep their own tint in added light, and get a little less of it: a mean of many mouths pales those of
    people who have dark ones. They are redder than the skin around, and not as dark as the inside of a mouth. Much less
    light would cost sync, since lips that are pressed together are paler.

    Arguments, dimensions and channels are those of `WarpingWav2Lip`, whose tensors it begins with.
    """

    paint_chroma: Tensor

    PAINT_CHROMA = 0.25
    SHADE_BGR = (0.25, 0.22, -0.28)
    TINT_CELL = 8
    """Pixels over which the person's tint is averaged."""
    TEETH_SPARED = 0.6
    """Of the dimming, where teeth are for certain."""
    LIPS_SPARED = 0.25
    """Of the added light, where lips are for certain."""
    _LEAST_TINT, _SURE_TINT = 0.05, 0.12  # of what is around, for teeth to be told by having less
    _LEAST_RED, _SURE_RED = 0.03, 0.2  # red over green, in tints, more than the skin: lips
    _OPEN, _NOT_OPEN = 0.35, 0.5  # brightness over that of the skin: the inside of a mouth, lips
    _DARK = 0.02  # below this brightness there is no tint to keep
    _NO_TINT = 1e-3  # squared

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        super().__init__(width, face_size)
        # Among the tensors, so that they tell this network from the other.
        self.register_buffer("paint_chroma", torch.tensor(self.PAINT_CHROMA))

    def _paint(self, moved: Tensor, colour: Tensor, share: Tensor) -> Tensor:
        change = share * (colour - moved)
        around = self._thereabouts(moved)
        light, level = luma(moved), luma(around)
        own = self._tint(around, level)
        tint = self._tint(moved, light)
        lips = self._lips(moved)
        shade = 1 - self.TEETH_SPARED * self._teeth(tint, light, own, level)
        lighter = luma(change)  # (n, 1, S, S), below 0 where darker
        change = torch.where(lighter < 0, shade * change, change)
        lighter = torch.where(lighter < 0, shade, 1 - self.LIPS_SPARED * lips) * lighter
        # What is mixed of colours in 0 to 1 has a luma in 0 to 1: the factor is positive.
        factor = ((light + lighter + self._DARK) / (light + self._DARK)).clamp(max=1)
        shaded = moved * factor ** moved.new_tensor(self.SHADE_BGR).view(3, 1, 1)
        dimmed = shaded * ((light + lighter) / luma(shaded).clamp(min=self._DARK))
        painted = self._tint(colour, luma(colour))
        amount = (own * painted).sum(1, keepdim=True) / (own * own).sum(1, keepdim=True).clamp(
            min=self._NO_TINT
        )
        lit = moved + lighter * (1 + torch.lerp(amount.clamp(0, 1) * own, tint, lips))
        relit = torch.where(lighter < 0, dimmed, lit)
        return (relit + self.paint_chroma * (moved + change - relit)).clamp(0, 1)

    def _teeth(self, tint: Tensor, light: Tensor, own: Tensor, level: Tensor) -> Tensor:
        """How surely teeth are seen, (n, 1, S, S), 0 to 1; of tint and brightness there, and of those around."""
        strength, usual = (tints.abs().amax(1, keepdim=True) for tints in (tint, own))
        pale = 2 * (1 - strength / usual.clamp(min=self._LEAST_TINT))
        bright = (light / level.clamp(min=self._DARK) - 0.85) / 0.25
        told = (usual - self._LEAST_TINT) / (self._SURE_TINT - self._LEAST_TINT)
        return pale.clamp(0, 1) * bright.clamp(0, 1) * told.clamp(0, 1)

    def _lips(self, moved: Tensor) -> Tensor:
        """How surely lips are seen, (n, 1, S, S), 0 to 1."""
        # Smoothed: a single pixel is no lip, and its tint may be anything.
        smooth = nn.functional.avg_pool2d(moved, 3, 1, 1, count_include_pad=False)
        size, first = self.face_size, lower_half_start(self.face_size) - self.top
        # Mostly cheeks and chin, hardly any neck.
        face = moved[:, :, first : first + 3 * size // 8, size // 6 : size - size // 6]
        skin = face.mean((2, 3), keepdim=True)
        level, redness = luma(skin), self._redness(skin)
        red = (self._redness(smooth) - redness - self._LEAST_RED) / (self._SURE_RED - self._LEAST_RED)
        bright = (luma(smooth) / level.clamp(min=self._DARK) - self._OPEN) / (self._NOT_OPEN - self._OPEN)
        return red.clamp(0, 1) * bright.clamp(0, 1)

    def _redness(self, colours: Tensor) -> Tensor:
        """Red less green, over brightness."""
        return (colours[:, 2:] - colours[:, 1:2]) / luma(colours).clamp(min=self._DARK)

    def _thereabouts(self, faces: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(faces, self.TINT_CELL)
        return nn.functional.interpolate(
            coarse, scale_factor=float(self.TINT_CELL), mode="bilinear", align_corners=False
        )

    def _tint(self, colours: Tensor, light: Tensor) -> Tensor:
        """What each channel has more than grey of the same brightness, `light`, over that brightness."""
        return colours / light.clamp(min=self._DARK) - 1


class PairedWav2Lip(RelightingWav2Lip):
    """`RelightingWav2Lip` with two references: a mouth at rest, and an open one.

    What an open mouth shows, teeth and tongue, is different in everybody, and a painter that has seen few people paints
    a dark bar. Here both mouths are moved and relit to say the sound, each by a head of its own; of the second there is
    as much as the sound opens the mouth. So lips that rest are those of the first, and teeth those of the second.

    Arguments and dimensions are those of `RelightingWav2Lip`, except that faces are (n, 9, S, S): the target with its
    lower half zeroed, the mouth at rest, the open one (the form `pair` of `lipsmith.reference`). `head` gives the
    channels of one head, of the other, and how much of the second there is, before a sigmoid and the same everywhere.
    """

    num_references = 2
    parts: tuple[Tensor, Tensor, Tensor]
    """In training, of the last pass: what was made of either mouth, (n, 3, S, S), and the share of the second."""

    OPEN_CHANNELS = 16
    _LITTLE = -2.0
    _BEYOND = 0.15
    _OPENING_STEP = 8.0  # learnt that much faster: one number decides about all pixels

    def __init__(self, width: float = 1.0, face_size: int = 96) -> None:
        super().__init__(width, face_size)
        full = scale_channels(DECODER_CHANNELS[0], width) + scale_channels(ENCODER_CHANNELS[0], width)
        self.open_output_block = self._head(full, scale_channels(HEAD_CHANNELS, width))
        quarter = scale_channels(DECODER_CHANNELS[2], width) + scale_channels(ENCODER_CHANNELS[2], width)
        last = nn.Conv2d(self.OPEN_CHANNELS, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, self._LITTLE / self._OPENING_STEP)  # type: ignore[arg-type]
        self.opening_block = nn.Sequential(ConvBlock(quarter, self.OPEN_CHANNELS, 3, 1, 1), last)

    def head(self, mel: Tensor, faces: Tensor) -> Tensor:
        """See `Wav2Lip.head`; C = 13: see the class."""
        decoded = self._decode(mel, faces)
        heads = [block(decoded[-1]).float() for block in (self.output_block, self.open_output_block)]
        opening = self._OPENING_STEP * self.opening_block(decoded[-3]).float().mean((2, 3), keepdim=True)
        return torch.cat((*heads, opening.expand(-1, -1, *heads[0].shape[2:])), dim=1)

    def show(self, head: Tensor, faces: Tensor) -> Tensor:
        """See `Wav2Lip.show`."""
        first, second, opening = head.split((6, 6, 1), dim=1)
        at_rest = super().show(first, faces[:, :6])
        opened = super().show(second, torch.cat((faces[:, :3], faces[:, 6:]), dim=1))
        # A little beyond 0 and 1, so that it gets there.
        share = ((1 + 2 * self._BEYOND) * torch.sigmoid(opening) - self._BEYOND).clamp(0, 1)
        if self.training:
            self.parts = at_rest, opened, share
        return torch.lerp(at_rest, opened, share)


GENERATORS: dict[str, type[Wav2Lip]] = {
    "wav2lip": Wav2Lip,
    "wav2lip-warp": WarpingWav2Lip,
    "wav2lip-relight": RelightingWav2Lip,
    "wav2lip-pair": PairedWav2Lip,
}
"""Generators by the architecture that cards and recipes name."""


_OF_PAIRS = ("open_output_block.", "opening_block.")


def paint_with(network: Wav2Lip, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of a `Wav2Lip` of the same dimensions; a `WarpingWav2Lip` paints like it and moves nothing yet.

    A `RelightingWav2Lip` takes those of a `WarpingWav2Lip` too, and a `PairedWav2Lip` those of either: it makes of both
    mouths what they make of one, and shows little of the second yet. The other way round, only what a pair makes of the
    mouth at rest is taken.

    Raises:
        RuntimeError: tensors of other dimensions.
    """
    own = network.state_dict()
    tensors = dict(tensors)
    for name in ("output_block.1.weight", "output_block.1.bias"):
        if name in tensors and len(tensors[name]) == 3 < len(own[name]):
            rest = torch.zeros_like(own[name][3:])
            tensors[name] = torch.cat((tensors[name], rest))
    first = "face_encoder_blocks.0.0.conv_block.0.weight"
    if first in tensors:
        unseen = torch.zeros_like(own[first][:, tensors[first].shape[1] :])
        tensors[first] = torch.cat((tensors[first], unseen), dim=1)
        if network.num_references == 1 and any(name.startswith(_OF_PAIRS) for name in tensors):
            tensors[first] = tensors[first][:, :6]
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OF_PAIRS)}
    for name in own.keys() - tensors.keys():
        if name.startswith("open_output_block."):
            tensors[name] = tensors.get(name.removeprefix("open_"), own[name])
        elif name == "paint_chroma" or name.startswith(_OF_PAIRS):
            tensors[name] = own[name]
    network.load_state_dict(tensors)
