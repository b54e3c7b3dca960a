import torch
from torch import nn

from lipsmith.training.descent import Descent


def test_a_step_is_clipped_and_left_out_where_gradients_are_no_numbers() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    descent = Descent("fp32", torch.device("cpu"))
    weight.grad = torch.tensor([30.0, 40.0])
    descent.take_clipped(optimiser, [weight], 5.0)
    torch.testing.assert_close(weight.data, torch.tensor([-2.0, -2.0]), rtol=0, atol=1e-5)
    weight.grad = torch.tensor([0.5, float("nan")])
    descent.take_clipped(optimiser, [weight], 5.0)
    torch.testing.assert_close(weight.data, torch.tensor([-2.0, -2.0]), rtol=0, atol=1e-5)
