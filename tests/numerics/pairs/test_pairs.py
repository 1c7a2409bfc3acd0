"""Token pairs against dense autograd Jacobians, and the words that name them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cases import RECURRENT, Case
from gradscope.errors import UsageError
from gradscope.models.family import family_model
from gradscope.models.stack import Recurrent
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.token_names import read_pair
from gradscope.numerics.token_pairs import attention_maps, measure_pairs
from gradscope.records import Pair

TOKENS = ("The", "cat", ",", "which", "was", "hungry", "was")


def one(case: Case, **options: str) -> tuple[Recurrent, Tensor]:
    return Case(case.family, {**case.options, **options}).model(), case.x()[:1]


def dense(model, x: Tensor, target: int, layers: int | None = None) -> list[float]:
    """||dy_a/dx_j||_F, j = 1 .. a, by autograd through the model (or the lowest `layers` of it)."""
    part = model if layers is None else Recurrent("part", model.cells[:layers])
    jacobian = torch.autograd.functional.jacobian(lambda given: part(given)[0, target - 1], x)
    return [float(jacobian[:, 0, step].norm()) for step in range(target)]


def norms(pair: Pair) -> dict[tuple[str, str], float]:
    return {(path.layer, path.path): 10**path.log10_norm for path in pair.paths}


def assert_share_and_rank(pair: Pair, want: list[float]) -> None:
    own = want[pair.source_step - 1]
    assert pair.share == pytest.approx(own / sum(want), rel=1e-11)
    assert pair.rank == 1 + sum(value > own for value in want)
    assert pair.of == len(want) == pair.target_step


@pytest.mark.parametrize("case", RECURRENT, ids=str)
@pytest.mark.parametrize(("source", "target"), [(1, 7), (3, 5), (4, 4)])
def test_recurrent_pairs_equal_dense_jacobians(case: Case, source: int, target: int) -> None:
    model, x = one(case)
    (pair,) = measure_pairs(model, x, None, [f"{source}:{target}"])
    assert (pair.source, pair.source_step, pair.target, pair.target_step) == (str(source), source, str(target), target)
    assert_share_and_rank(pair, dense(model, x, target))
    for depth, cell in enumerate(model.cells, 1):
        want = dense(model, x, target, depth)[source - 1]
        assert norms(pair)[cell.name, "all"] == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("family", ["rnn", "lstm", "lru"])
def test_a_layer_above_is_also_measured_from_its_own_input(family: str) -> None:
    model, x = one(Case(family), layers="2")
    (pair,) = measure_pairs(model, x, None, ["2:6"])
    lower, upper = Recurrent("lower", model.cells[:1]), Recurrent("upper", model.cells[1:])
    want = dense(upper, lower(x).detach(), 6)[1]
    assert norms(pair)["l1", "own input"] == pytest.approx(want, rel=1e-11)
    assert ("l0", "own input") not in norms(pair)


def lstm_parts(model: Recurrent, x: Tensor, source: int, target: int) -> tuple[Tensor, Tensor]:
    """dh_a/dx_b through the cell state alone, all gates being held fixed but those of step b; and the rest."""
    cell = model.cells[0]
    states = [cell.initial_state(1)]
    for step in x.unbind(1):
        states.append(cell.step(step, states[-1]))

    def gates(t: int, given: Tensor) -> list[Tensor]:
        weights = cell.parameters
        z = given @ weights["weight_ih"].T + states[t - 1][:, :5] @ weights["weight_hh"].T
        i, f, g, o = (z + weights["bias_ih"] + weights["bias_hh"]).chunk(4, -1)
        return [i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()]

    def through_cell(given: Tensor) -> Tensor:
        i, f, g, _ = gates(source, given)
        c = f * states[source - 1][:, 5:] + i * g
        for t in range(source + 1, target + 1):
            i, f, g, _ = gates(t, x[:, t - 1])
            c = f * c + i * g
        return (gates(target, x[:, target - 1])[3] * c.tanh())[0]

    cell_part = torch.autograd.functional.jacobian(through_cell, x[:, source - 1])[:, 0]
    whole = torch.autograd.functional.jacobian(lambda given: model(given)[0, target - 1], x)[:, 0, source - 1]
    return cell_part, whole - cell_part


@pytest.mark.parametrize(("source", "target"), [(1, 7), (2, 3), (4, 4)])
def test_cell_and_gates_are_the_two_parts_of_an_lstm(source: int, target: int) -> None:
    model, x = one(Case("lstm"))
    found = norms(measure_pairs(model, x, None, [f"{source}:{target}"])[0])
    cell, gates = lstm_parts(model, x, source, target)
    assert found["l0", "cell"] == pytest.approx(float(cell.norm()), rel=1e-11)
    assert found["l0", "gates"] == pytest.approx(float(gates.norm()), rel=1e-11)


def test_without_recurrent_weights_only_the_cell_carries() -> None:
    model, x = one(Case("lstm"))
    model.cells[0].parameters["weight_hh"].zero_()
    paths = {path.path: path.log10_norm for path in measure_pairs(model, x, None, ["1:7"])[0].paths}
    assert paths["gates"] == -math.inf
    assert paths["cell"] == pytest.approx(paths["all"], abs=1e-13)


def linear_rnn(factor: float) -> Recurrent:
    """h_t = factor h_{t-1} + x_t, three units, so that dh_a/dx_b = factor^(a-b) I."""
    options = {"nonlinearity": "linear", "init": "identity", "gain": str(factor), "bias": "false", "hidden": "3"}
    model = family_model("rnn", options, "rnn", {}).build(input_size=3, seed=0, dtype=torch.float64)
    assert isinstance(model, Recurrent)
    model.cells[0].parameters["weight_ih"].copy_(torch.eye(3))
    return model


@pytest.mark.parametrize("factor", [0.1, 0.001])
def test_no_distance_underflows(factor: float) -> None:
    x = torch.zeros(1, 801, 3, dtype=torch.float64)
    (pair,) = measure_pairs(linear_rnn(factor), x, None, ["1:801"])
    assert pair.paths[0].log10_norm == pytest.approx(800 * math.log10(factor) + math.log10(3) / 2, rel=1e-12)
    assert (pair.rank, pair.of) == (801, 801)
    assert pair.share == 0.0 or pair.share < 1e-300


def test_no_distance_overflows() -> None:
    x = torch.zeros(1, 801, 3, dtype=torch.float64)
    (pair,) = measure_pairs(linear_rnn(10.0), x, None, ["1:801"])
    assert pair.paths[0].log10_norm == pytest.approx(800.2385606273598, rel=1e-12)
    assert pair.share == pytest.approx(0.9, rel=1e-12)
    assert pair.rank == 1


def test_an_lstm_is_split_at_any_distance() -> None:
    model, _ = one(Case("lstm"), forget_bias="-1")
    x = torch.randn(1, 1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = {path.path: path.log10_norm for path in measure_pairs(model, x, None, ["1:1000"])[0].paths}
    assert all(-700 < value < -400 for value in found.values())
    larger, smaller = max(found["cell"], found["gates"]), min(found["cell"], found["gates"])
    assert larger + math.log10(1 - 10 ** (smaller - larger)) <= found["all"] + 1e-9
    assert found["all"] <= larger + math.log10(1 + 10 ** (smaller - larger)) + 1e-9


def test_the_cell_path_shrinks_by_the_forget_gate() -> None:
    model, _ = one(Case("lstm"), forget_bias="-5")
    model.cells[0].parameters["weight_hh"].zero_()
    x = torch.zeros(1, 801, 3, dtype=torch.float64)
    near, far = (
        next(path.log10_norm for path in pair.paths if path.path == "cell")
        for pair in measure_pairs(model, x, None, ["401:801", "101:801"])
    )
    # log10 sigmoid(-5) by mpmath; the cell state is settled well before step 101.
    assert far - near == pytest.approx(-300 * 2.17438884830914045, rel=1e-12)
    assert far < -1500


def test_an_output_that_depends_on_nothing_has_no_share() -> None:
    model, x = one(Case("rnn"))
    model.cells[0].parameters["weight_ih"].zero_()
    (pair,) = measure_pairs(model, x, None, ["2:5"])
    assert (pair.share, pair.rank, pair.paths[0].log10_norm) == (None, 1, -math.inf)


def attention(family: str, **options: str) -> WholeModule:
    settled = family_model(family, {"hidden": "8", "heads": "2", **options}, family, {})
    model = settled.build(input_size=3, seed=0, dtype=torch.float64)
    assert isinstance(model, WholeModule)
    return model


@pytest.mark.parametrize(("family", "layers"), [("attention", 1), ("transformer", 2)])
def test_attention_pairs_equal_dense_jacobians_and_tell_the_weights(family: str, layers: int) -> None:
    model, x = attention(family, layers=str(layers)), Case("rnn").x()[:1]
    (pair,) = measure_pairs(model, x, TOKENS, ["cat:was"])
    want = dense(model, x, 5)
    assert_share_and_rank(pair, want)
    found = norms(pair)
    assert found.pop(("model", "all")) == pytest.approx(want[1], rel=1e-11)
    assert list(found) == [(f"l{layer}", f"head {head} weight") for layer in range(layers) for head in range(2)]
    weights = [layer.detach() for layer in model.weights(x)]
    for layer in range(layers):
        for head in range(2):
            expected = float(weights[layer][0, head, 4, 1])
            assert found[f"l{layer}", f"head {head} weight"] == pytest.approx(expected, rel=1e-12)


def test_a_module_has_pairs_without_weights() -> None:
    module = WholeModule("tanh", nn.Tanh(), 3, kind="module")
    (same, other) = measure_pairs(module, torch.zeros(1, 4, 3, dtype=torch.float64), None, ["3:3", "1:3"])
    assert (same.share, same.rank, [path.path for path in same.paths]) == (1.0, 1, ["all"])
    assert same.paths[0].log10_norm == pytest.approx(math.log10(3) / 2, abs=1e-14)
    assert (other.share, other.rank, other.paths[0].log10_norm) == (0.0, 2, -math.inf)


def test_attention_maps_hold_the_first_steps_of_one_sequence() -> None:
    model, x = attention("transformer", layers="2"), Case("rnn").x()
    found = attention_maps(model, x[1:], TOKENS, limit=4)
    assert found is not None
    assert found.token == ("The", "cat", ",", "which")
    assert [len(found.weights), len(found.weights[0]), len(found.weights[0][0])] == [2, 2, 4]
    want = torch.stack(model.weights(x))[:, 1, :, :4, :4].detach()
    assert torch.allclose(torch.tensor(found.weights, dtype=torch.float64), want, rtol=1e-13, atol=0)
    assert attention_maps(WholeModule("tanh", nn.Tanh(), 3, kind="module"), x[:1], None) is None


def test_pairs_carry_the_tokens_as_they_are() -> None:
    model, x = one(Case("rnn"))
    (pair,) = measure_pairs(model, x, ("\x1b[31m", *TOKENS[1:]), ["\x1b[31m:was#2"])
    assert (pair.source, pair.source_step, pair.target, pair.target_step) == ("\x1b[31m", 1, "was", 7)


@pytest.mark.parametrize(
    ("word", "tokens", "expected"),
    [
        ("cat:was#2", TOKENS, (2, 7)),
        ("cat:was", TOKENS, (2, 5)),
        ("was#1:was#2", TOKENS, (5, 7)),
        ("2:6", TOKENS, (2, 6)),
        ("cat:6", TOKENS, (2, 6)),
        ("3:3", None, (3, 3)),
        ("a:::b", ("a", ":", "b", "::b", "c"), (1, 4)),
        (":::", (":", "x"), (1, 1)),
        ("#:#2", ("#", "#2"), (1, 2)),
        ("2:1", ("2", "x", "1"), (1, 3)),
    ],
)
def test_words_for_pairs(word: str, tokens: tuple[str, ...] | None, expected: tuple[int, int]) -> None:
    assert read_pair(word, tokens, 7) == expected


@pytest.mark.parametrize(
    ("word", "tokens", "message"),
    [
        ("cat", TOKENS, "cannot read the pair 'cat'; write source:target, such as cat:was#2 or 5:20"),
        (":was", TOKENS, "cannot read the pair ':was'; write source:target, such as cat:was#2 or 5:20"),
        ("cta:was", TOKENS, "unknown token 'cta'; did you mean 'cat'? (one of: cat)"),
        ("dog:was", TOKENS, "unknown token 'dog' (one of: The, cat, ,, which, was, hungry)"),
        ("cat:was#3", TOKENS, "there is no 'was#3': 'was' occurs 2 times (steps 5, 7); use #1 to #2"),
        ("cat#0:was", TOKENS, "there is no 'cat#0': 'cat' occurs once (step 2); use #1"),
        (
            "was:cat",
            TOKENS,
            "in the pair 'was:cat' step 5 comes after step 2, and no output depends on a later input; swap the two, "
            "or pick another occurrence with #n",
        ),
        ("1:8", TOKENS, "step 8 is outside 1..7; pick a step of this sequence"),
        ("0:3", None, "step 0 is outside 1..7; pick a step of this sequence"),
        ("cat:3", None, "'cat' is no step number, and the sequence has no tokens; write a pair as 5:20"),
    ],
)
def test_words_that_name_no_pair(word: str, tokens: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_pair(word, tokens, 7)
    assert str(caught.value) == message


def test_foreign_text_in_an_error_is_made_harmless() -> None:
    with pytest.raises(UsageError) as caught:
        read_pair("\x1b[2J:was", ("\x1b]0;x", "was"), 2)
    assert "\x1b" not in str(caught.value)
    assert "\\x1b[2J" in str(caught.value)


def test_a_model_without_input_has_no_pairs() -> None:
    model = family_model("rnn", {"hidden": "3"}, "rnn", {}).build(input_size=0, seed=0, dtype=torch.float64)
    with pytest.raises(UsageError, match="--pair needs an input at every step"):
        measure_pairs(model, torch.zeros(1, 5, 0, dtype=torch.float64), None, ["1:5"])
    assert measure_pairs(model, torch.zeros(1, 5, 0, dtype=torch.float64), None, []) == ()
