import pytest
import torch

from lipsmith.models.articulation import articulate
from lipsmith.models.wav2lip import RelightingWav2Lip, Wav2Lip
from lipsmith.timebase import SILENCE
from lipsmith.training.amplification import AmplifiedGenerator
from lipsmith.training.recipe import Amplification

WIDTH = 0.0625


def _random(form: type[Wav2Lip], seed: int) -> Wav2Lip:
    torch.manual_seed(seed)
    network = form(WIDTH).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)  # so that something of the sound arrives
    last = next(module for module in reversed(network.output_block) if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        last.weight /= network.head(*_given()).std()
    return network


def _given(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return 3 * torch.randn(count, 1, 80, 16, generator=random), torch.rand(count, 6, 96, 96, generator=random)


@pytest.mark.parametrize("form", [Wav2Lip, RelightingWav2Lip])
def test_a_factor_of_one_is_the_generator_itself_and_silence_stays_as_it_is(form: type[Wav2Lip]) -> None:
    network, (mel, faces) = _random(form, 0), _given()
    silence = torch.full_like(mel, SILENCE)
    with torch.no_grad():
        same = AmplifiedGenerator(network, Amplification(factor=1.0))
        torch.testing.assert_close(same(mel, faces), network(mel, faces), rtol=0, atol=1e-4)
        far = AmplifiedGenerator(network, Amplification(factor=2.5, articulation=1.5))
        torch.testing.assert_close(far(silence, faces), network(silence, faces), rtol=0, atol=1e-4)
        assert float((far(mel, faces) - network(mel, faces)).abs().max()) > 0.05


def test_the_last_layers_values_go_so_many_times_as_far_from_those_of_silence() -> None:
    network, (mel, faces) = _random(Wav2Lip, 1), _given()
    with torch.no_grad():
        # The last layer of this form ends in a sigmoid, so the values are the logits of what is seen.
        rest, said = (network(heard, faces).logit() for heard in (torch.full_like(mel, SILENCE), mel))
        seen = AmplifiedGenerator(network, Amplification(factor=1.5))(mel, faces)
        torch.testing.assert_close(seen.logit(), rest + 1.5 * (said - rest), rtol=0, atol=1e-3)
        # The code of the sound, extended, is what the values are extended from.
        moved = AmplifiedGenerator(network, Amplification(factor=1.5, articulation=1.4))(mel, faces)
        articulate(network, 1.4)
        said = network(mel, faces).logit()
        torch.testing.assert_close(moved.logit(), rest + 1.5 * (said - rest), rtol=0, atol=1e-3)


def test_it_is_a_copy_which_takes_over_other_tensors() -> None:
    network, other, (mel, faces) = _random(Wav2Lip, 2), _random(Wav2Lip, 3), _given()
    recipe = Amplification(factor=1.5, articulation=1.4)
    with torch.no_grad():
        amplified = AmplifiedGenerator(network, recipe)
        before = amplified(mel, faces)
        for parameter in network.parameters():
            parameter.add_(1.0)
        assert torch.equal(amplified(mel, faces), before)
        amplified.load_state_dict(AmplifiedGenerator(other, recipe).state_dict())
        expected = AmplifiedGenerator(other, recipe)(mel, faces)
        torch.testing.assert_close(amplified(mel, faces), expected, rtol=0, atol=1e-6)
