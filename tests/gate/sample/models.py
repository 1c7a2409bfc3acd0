"""Two models that a gate must stop."""

import torch
from torch import nn


class Forgetful(nn.RNN):
    """Forgets within a few steps: its recurrent weights are small."""

    def __init__(self) -> None:
        super().__init__(4, 8, batch_first=True)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


def broken() -> nn.RNN:
    """Gives NaN: one of its weights is."""
    model = Forgetful()
    with torch.no_grad():
        model.weight_hh_l0[0, 0] = torch.nan
    return model
