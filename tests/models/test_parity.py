"""The networks give the published system's numbers for the stand-in weights of `shared/parity`."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lipsmith.conditioning import lower_half, mask_lower_half
from lipsmith.models.expert import LipSyncExpert
from lipsmith.models.quality import VisualQualityDiscriminator
from lipsmith.models.syncnet import SyncNet
from lipsmith.models.wav2lip import Wav2Lip

OUTPUT_TOLERANCE = 1e-5
SYNCNET_RELATIVE_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5

PUBLISHED = {
    "wav2lip": Wav2Lip,
    "expert": LipSyncExpert,
    "quality_discriminator": VisualQualityDiscriminator,
    "syncnet_v2": SyncNet,
}


@pytest.fixture(scope="module")
def seeded(parity: Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(parity / "seeded.py")))


@pytest.fixture(scope="module")
def inputs(seeded):
    def make(kind: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(getattr(seeded, kind)(name, shape))

    return make


@pytest.fixture(scope="module")
def load(seeded):
    def make(name: str) -> torch.nn.Module:
        model = PUBLISHED[name]()
        model.load_state_dict(
            {key: torch.from_numpy(array) for key, array in seeded.state_dict(name).items()}
        )
        return model.eval()

    return make


@pytest.mark.parametrize("name", PUBLISHED)
def test_tensor_names_and_shapes_are_the_published_ones(parity: Path, name: str) -> None:
    layout = json.loads((parity / "layouts" / f"{name}.json").read_text())
    with torch.device("meta"):
        state = PUBLISHED[name]().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == layout


@torch.inference_mode()
def test_generator(parity: Path, load, inputs) -> None:
    output = load("wav2lip")(
        inputs("normal", "mel", (2, 1, 80, 16)), inputs("uniform", "face", (2, 6, 96, 96))
    )
    expected = np.load(parity / "wav2lip.npz")["output"]
    np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=OUTPUT_TOLERANCE)


@torch.inference_mode()
def test_expert(parity: Path, load, inputs) -> None:
    expert = load("expert")
    mel, lips = inputs("normal", "mel", (2, 1, 80, 16)), inputs("uniform", "lips", (2, 15, 48, 96))
    expected = np.load(parity / "expert.npz")
    audio, face = expert(mel, lips)
    np.testing.assert_allclose(audio.numpy(), expected["audio_embedding"], rtol=0, atol=OUTPUT_TOLERANCE)
    np.testing.assert_allclose(face.numpy(), expected["face_embedding"], rtol=0, atol=OUTPUT_TOLERANCE)
    cosine = (audio * face).sum(dim=1).numpy()
    np.testing.assert_allclose(cosine, expected["p_sync"].reshape(-1), rtol=0, atol=OUTPUT_TOLERANCE)

    frames = lips.unflatten(1, (5, 3))
    stretch = expert.embed_lips(frames)[:, 0], expert.embed_sound(mel[:, None])[:, 0]
    np.testing.assert_allclose(stretch[0].numpy(), expected["face_embedding"], rtol=0, atol=OUTPUT_TOLERANCE)
    np.testing.assert_allclose(stretch[1].numpy(), expected["audio_embedding"], rtol=0, atol=OUTPUT_TOLERANCE)


@torch.inference_mode()
def test_quality_discriminator(parity: Path, load, inputs) -> None:
    output = load("quality_discriminator")(inputs("uniform", "faces", (2, 3, 5, 96, 96)))
    expected = np.load(parity / "quality_discriminator.npz")["output"]
    np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=OUTPUT_TOLERANCE)


@torch.inference_mode()
def test_syncnet(parity: Path, load, inputs) -> None:
    syncnet = load("syncnet_v2")
    expected = np.load(parity / "syncnet_v2.npz")
    lips = syncnet.embed_lips(255 * inputs("uniform", "syncnet_lip", (2, 3, 5, 224, 224)))
    sound = syncnet.embed_sound(10 * inputs("normal", "syncnet_mfcc", (2, 1, 13, 20)))
    for embedding, name in ((lips, "lip_embedding"), (sound, "audio_embedding")):
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(
            embedding.numpy(),
            expected[name],
            rtol=SYNCNET_RELATIVE_TOLERANCE,
            atol=SYNCNET_RELATIVE_TOLERANCE * scale,
        )


@torch.inference_mode()
def test_terms_of_the_loss(parity: Path, load, inputs) -> None:
    """Equations 2 to 6, from the networks' outputs: five generated frames, one window for the expert."""
    expected = np.load(parity / "losses.npz")
    target = inputs("uniform", "window", (2, 3, 5, 96, 96))
    reference = inputs("uniform", "reference", (2, 3, 5, 96, 96))
    faces = torch.cat((mask_lower_half(target), reference), dim=1)
    mels = inputs("normal", "indiv_mels", (2, 5, 1, 80, 16))
    generated = load("wav2lip")(mels.flatten(0, 1), faces.transpose(1, 2).flatten(0, 1))
    generated = generated.unflatten(0, (2, 5)).transpose(1, 2)
    np.testing.assert_allclose(generated.numpy(), expected["generated"], rtol=0, atol=OUTPUT_TOLERANCE)
    assert F.l1_loss(generated, target).item() == pytest.approx(float(expected["l1"]), abs=LOSS_TOLERANCE)

    expert = load("expert")
    lips = expert.embed_lips(lower_half(generated.transpose(1, 2)))
    sound = expert.embed_sound(inputs("normal", "mel", (2, 1, 80, 16))[:, None])
    cosine = (lips * sound).sum(dim=-1)
    sync = F.binary_cross_entropy(cosine, torch.ones_like(cosine))
    assert sync.item() == pytest.approx(float(expected["sync"]), abs=LOSS_TOLERANCE)

    critic = load("quality_discriminator")
    fake, real = critic(generated), critic(target)
    terms = {
        "perceptual": F.binary_cross_entropy(fake, torch.ones_like(fake)),
        "disc_real": F.binary_cross_entropy(real, torch.ones_like(real)),
        "disc_fake": F.binary_cross_entropy(fake, torch.zeros_like(fake)),
    }
    for name, term in terms.items():
        assert term.item() == pytest.approx(float(expected[name]), abs=LOSS_TOLERANCE), name
