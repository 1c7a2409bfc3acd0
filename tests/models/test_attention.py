"""Attention and transformer: equal to torch.nn, causal, weights that are weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.models.attention import sinusoids
from gradscope.models.family import family_model
from gradscope.models.whole_module import WholeModule


def make(
    family: str, dtype: torch.dtype = torch.float64, seed: int = 0, inputs: int = 3, **options: str
) -> WholeModule:
    settled = family_model(family, {"hidden": "8", **options}, family, {})
    model = settled.build(input_size=inputs, seed=seed, dtype=dtype)
    assert isinstance(model, WholeModule)
    return model


def sequence(batch: int = 2, steps: int = 6, features: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, steps, features, dtype=torch.float64, generator=generator)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def future(steps: int) -> torch.Tensor:
    return torch.ones(steps, steps, dtype=torch.bool).triu(1)


def randomise(module: nn.Module) -> None:
    """Biases and norms start at 0 and 1, where a missing one would not show."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator), alpha=0.2)


def multihead_twin(model: WholeModule, heads: int) -> nn.MultiheadAttention:
    twin = nn.MultiheadAttention(8, heads, batch_first=True, dtype=torch.float64)
    twin.load_state_dict(model.module.attention.state_dict())
    return twin


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_equals_multihead_attention_in_outputs_weights_and_gradients(heads: int) -> None:
    model, x = make("attention", heads=str(heads)), sequence()
    randomise(model.module)
    twin, embedded = multihead_twin(model, heads), model.module.embedding(x)
    expected, weights = twin(embedded, embedded, embedded, attn_mask=future(6), average_attn_weights=False)
    assert relative(model(x), expected) <= 1e-12
    assert relative(model.weights(x)[0], weights) <= 1e-12
    v = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad((model(x) * v).sum(), list(model.module.attention.parameters()))
    theirs = torch.autograd.grad((expected * v).sum(), list(twin.parameters()))
    assert [relative(a, b) <= 1e-12 for a, b in zip(mine, theirs, strict=True)] == [True] * 4


def test_one_altered_weight_breaks_the_equality() -> None:
    model, x = make("attention"), sequence()
    twin, embedded = multihead_twin(model, 4), model.module.embedding(x)
    twin.in_proj_weight.data[1, 2] += 1e-6
    assert relative(model(x), twin(embedded, embedded, embedded, attn_mask=future(6))[0]) > 1e-10


def encoder_twin(model: WholeModule, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        8, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm = nn.LayerNorm(8, dtype=torch.float64)
    twin = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
    weights = {
        key.replace("blocks.", "layers.").replace("attention.", "self_attn."): value
        for key, value in model.module.state_dict().items()
        if not key.startswith("embedding.")
    }
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize("layers", [1, 3])
def test_transformer_equals_a_pre_norm_encoder(layers: int) -> None:
    model, x = make("transformer", layers=str(layers)), sequence()
    randomise(model.module)
    twin = encoder_twin(model, layers)
    expected = twin(model.module.embedding(x), mask=future(6))
    assert relative(model(x), expected) <= 1e-12
    mine = torch.autograd.grad(model(x).square().sum(), model.module.blocks[0].linear1.weight)[0]
    theirs = torch.autograd.grad(expected.square().sum(), twin.layers[0].linear1.weight)[0]
    assert relative(mine, theirs) <= 1e-12


FAMILIES = [("attention", {}), ("attention", {"positions": "none", "heads": "2"}), ("transformer", {"layers": "2"})]


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_the_unrolled_copy_is_the_same_function(family: str, options: dict[str, str]) -> None:
    model, x = make(family, **options), sequence(batch=1)
    unrolled = model.module.unroll(list(x.unbind(1)))
    assert unrolled.shape == (1, 8)
    assert relative(unrolled, model(x)[:, -1]) <= 1e-12


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_no_output_depends_on_a_later_input(family: str, options: dict[str, str]) -> None:
    model, x = make(family, **options), sequence().requires_grad_()
    for t in range(6):
        (gradient,) = torch.autograd.grad(model(x)[:, t].square().sum(), x)
        assert torch.equal(gradient[:, t + 1 :], torch.zeros(2, 5 - t, 3, dtype=torch.float64))
        assert bool((gradient[:, : t + 1].abs().amax((0, 2)) > 0).all())


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_rows_of_weights_sum_to_one_and_leave_the_future_out(family: str, options: dict[str, str]) -> None:
    model = make(family, **options)
    layers = model.weights(sequence())
    assert len(layers) == int(options.get("layers", 1))
    for weights in layers:
        assert weights.shape == (2, int(options.get("heads", 4)), 6, 6)
        assert torch.allclose(weights.sum(-1), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-15)
        assert bool((weights[..., future(6)] == 0).all())


def test_zero_queries_attend_uniformly() -> None:
    model = make("attention")
    with torch.no_grad():
        model.module.attention.in_proj_weight[:8] = 0
        model.module.attention.in_proj_bias[:8] = 0
    weights = model.weights(sequence())[0]
    for t in range(6):
        assert torch.allclose(weights[..., t, : t + 1], torch.tensor(1 / (t + 1), dtype=torch.float64), atol=1e-15)


def test_positions_are_those_of_the_paper() -> None:
    found = sinusoids(3, 2, 5)
    assert found.shape == (2, 5)
    # step 4: sin 4, cos 4, then 4 / 10000^(2/5), 4 / 10000^(4/5); an odd width ends with a sine.
    want = [math.sin(4), math.cos(4), math.sin(0.1004754573), math.cos(0.1004754573), math.sin(0.0025238293)]
    assert found[1].tolist() == pytest.approx(want, abs=1e-9)


def test_without_positions_the_past_has_no_order() -> None:
    x = sequence()
    shuffled = x[:, [3, 1, 4, 0, 2, 5]]
    blind, placed = make("attention", positions="none"), make("attention")
    assert relative(blind(shuffled)[:, -1], blind(x)[:, -1]) <= 1e-14
    assert relative(placed(shuffled)[:, -1], placed(x)[:, -1]) > 1e-3


@pytest.mark.parametrize("family", ["attention", "transformer"])
def test_one_step_no_input_and_single_precision(family: str) -> None:
    narrow, wide = make(family, torch.float32), make(family)
    assert narrow(sequence().float()).dtype == torch.float32
    assert relative(narrow(sequence().float()).double(), wide(sequence())) < 1e-5
    assert wide(sequence(steps=1)).shape == (2, 1, 8)
    assert make(family, inputs=0)(sequence(features=0)).shape == (2, 6, 8)


def test_weights_come_from_the_seed_and_not_from_the_global_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = make("transformer").parameters()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, other = make("transformer").parameters(), make("transformer", seed=1).parameters()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["blocks.0.linear1.weight"], other["blocks.0.linear1.weight"])


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("attention", {"layers": "3"}, "attention has one layer, not layers=3; use transformer:layers=3 for a stack"),
        ("attention", {"hidden": "6"}, "hidden=6 is not a multiple of heads=4; heads=3 fits"),
        ("transformer", {"hidden": "7", "heads": "2"}, "hidden=7 is not a multiple of heads=2; heads=1 fits"),
        ("transformer", {"heads": "0"}, "heads=0 cannot be: attention needs at least 1"),
    ],
)
def test_options_that_cannot_be(family: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(family, **options)
    assert str(caught.value) == message
