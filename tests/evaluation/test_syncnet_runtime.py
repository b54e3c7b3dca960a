import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipsmith.errors import RuntimeUnavailableError
from lipsmith.evaluation.syncnet_runtime import OpenVinoSyncNet, TorchSyncNet, fast_syncnet
from lipsmith.models.syncnet import FlatLipTower, SyncNet

RELATIVE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def untrained() -> SyncNet:
    torch.manual_seed(0)
    network = SyncNet().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network


@torch.inference_mode()
def test_the_flat_tower_gives_the_same_numbers(untrained: SyncNet) -> None:
    frames = torch.rand((2, 3, 5, 224, 224)) * 255
    expected = untrained.embed_lips(frames)
    found = FlatLipTower(untrained)(frames)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_openvino_gives_the_same_numbers_whatever_the_batch(untrained: SyncNet) -> None:
    fast = OpenVinoSyncNet(untrained, batch=2)
    frames, mfcc = torch.rand((3, 3, 5, 224, 224)) * 255, torch.randn((3, 1, 13, 20)) * 10
    for found, expected in (
        (fast.embed_lips(frames), untrained.embed_lips(frames)),
        (fast.embed_sound(mfcc), untrained.embed_sound(mfcc)),
        (fast.embed_lips(frames[2:]), untrained.embed_lips(frames[2:])),
    ):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < RELATIVE_TOLERANCE * expected.abs().max()


def test_the_published_numbers_come_out_of_the_fast_runtime(parity: Path) -> None:
    seeded = SimpleNamespace(**runpy.run_path(str(parity / "seeded.py")))
    network = SyncNet()
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded.state_dict("syncnet_v2").items()}
    )
    fast = fast_syncnet(network, device="cpu")
    expected = np.load(parity / "syncnet_v2.npz")
    lips = fast.embed_lips(torch.from_numpy(255 * seeded.uniform("syncnet_lip", (2, 3, 5, 224, 224))))
    sound = fast.embed_sound(torch.from_numpy(10 * seeded.normal("syncnet_mfcc", (2, 1, 13, 20))))
    for found, name in ((lips, "lip_embedding"), (sound, "audio_embedding")):
        largest = np.abs(expected[name]).max()
        assert np.abs(found.numpy() - expected[name]).max() < RELATIVE_TOLERANCE * largest, name


def test_a_device_that_is_not_there_is_told(untrained: SyncNet) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that the test takes for absent")
    with pytest.raises(RuntimeUnavailableError, match=r"The device 'cuda' cannot be used"):
        TorchSyncNet(untrained, "cuda")
    assert isinstance(fast_syncnet(untrained), OpenVinoSyncNet)
