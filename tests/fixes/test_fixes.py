"""Every remedy does what it says, to a copy, and the lines it prints do the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gradscope import analyze
from gradscope.errors import UsageError
from gradscope.examine import full_report
from gradscope.fixes import solved_numbers, train_remedies
from gradscope.fixes.layer_edit import changed
from gradscope.fixes.measure_remedies import measure_fixes, treat
from gradscope.fixes.other_models import parameters
from gradscope.fixes.remedy import RemedyInput, RemedyResult
from gradscope.fixes.solved_numbers import LOG_GAINS, crossing, of_sequences
from gradscope.loading.from_word import source_of
from gradscope.loading.objects import source_from_object
from gradscope.models.family import family_model
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.analysis import Run
from gradscope.numerics.lyapunov import lyapunov
from gradscope.records import RunSpec
from gradscope.registry import FIXES, load
from gradscope.rules.advice import half_life_bias
from gradscope.verdicts import GRAVEST_FIRST


def remedy_input(word="lstm", lag=30, layers=1):
    name, _, options = word.partition(":")
    given = dict(part.split("=") for part in options.split(",")) if options else {}
    made = family_model(name, given, word, {"hidden": 12, "layers": layers})
    model = made.build(input_size=3, seed=0, dtype=torch.float64)
    x = torch.randn(2, lag + 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return RemedyInput(model, word, lag, x, 0, lambda y: y[:, -1].sum())


def treated(name, **more) -> RemedyResult:
    found = load(FIXES[name]).apply(remedy_input(**more))
    assert found is not None
    return found


def as_module(word, model):
    kinds = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
    module = kinds[word.partition(":")[0]](3, 12, len(model.cells), batch_first=True, dtype=torch.float64)
    weights = {}
    for index, cell in enumerate(model.cells):
        weights |= {f"{key}_l{index}": value for key, value in cell.parameters.items()}
    module.load_state_dict(weights)
    return module


@pytest.mark.parametrize("name", list(FIXES))
def test_the_model_itself_is_left_alone_and_the_same_seed_gives_the_same_change(name):
    for word in ("rnn", "lstm", "gru"):
        one = remedy_input(word)
        before = {key: value.clone() for key, value in one.model.parameters().items()}
        first, second = load(FIXES[name]).apply(one), load(FIXES[name]).apply(one)
        assert all(torch.equal(value, before[key]) for key, value in one.model.parameters().items())
        if first is None:
            assert second is None
            continue
        assert first.change == second.change
        torch.testing.assert_close(first.model(one.x), second.model(one.x))
        assert first.model(one.x).shape[:2] == one.x.shape[:2]


@pytest.mark.parametrize(
    ("name", "word"), [("open gates", "lstm"), ("open gates", "gru"), ("identity", "rnn"), ("unit exponent", "rnn")]
)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_lines_of_pytorch_make_the_same_weights(name, word, layers):
    found, one = treated(name, word=word, layers=layers), remedy_input(word, layers=layers)
    rnn = as_module(word, one.model)
    exec(found.code, {"torch": torch, "rnn": rnn})
    for key, value in found.weights.items():
        torch.testing.assert_close(getattr(rnn, key).detach(), value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "word"), [("chrono", "lstm"), ("uniform gates", "gru"), ("orthogonal", "rnn")])
def test_random_lines_run_and_change_what_they_should(name, word):
    found, rnn = treated(name, word=word), as_module(word, remedy_input(word).model)
    before = {key: value.detach().clone() for key, value in rnn.named_parameters()}
    exec(found.code, {"torch": torch, "rnn": rnn})
    mine = {key for key, value in found.weights.items() if not torch.equal(value, before[key])}
    theirs = {key for key, value in rnn.named_parameters() if not torch.equal(value.detach(), before[key])}
    assert mine == theirs != set()


def test_gates_hold_half_over_the_lag():
    assert float(torch.tensor(half_life_bias(30), dtype=torch.float64).sigmoid() ** 30) == pytest.approx(0.5)
    found = treated("open gates")
    assert found.weights["bias_ih_l0"][12:24].tolist() == pytest.approx([half_life_bias(30)] * 12)


def test_the_leading_exponent_is_brought_to_zero():
    one, found = remedy_input("rnn", lag=90), treated("unit exponent", word="rnn", lag=90)
    assert abs(float(lyapunov(found.model.run(one.x[:1]), 1).mean[0])) < 0.05
    assert abs(float(lyapunov(one.model.run(one.x[:1]), 1).mean[0])) > 0.1


def test_every_purpose_of_a_seed_has_numbers_of_its_own():
    one = remedy_input("rnn")
    streams = [replace(one, seed=seed).stream(purpose) for seed in (0, 1) for purpose in ("chrono", "gating", "")]
    drawn = [tuple(torch.rand(3, generator=stream).tolist()) for stream in streams]
    assert len(set(drawn)) == len(streams)
    assert tuple(torch.rand(3, generator=one.stream("chrono")).tolist()) == drawn[0]


def test_a_crossing_between_ends_on_one_side_is_found():
    """Ln g - 3 (ln g)^2 + 0.05 rises through 0 at ln g = -0.044, and falls again: tanh units saturate."""
    found = crossing(lambda log_gain: log_gain - 3 * log_gain**2 + 0.05, LOG_GAINS, 0.0, 8)
    assert found == pytest.approx((1 - math.sqrt(1.6)) / 6, abs=0.03)
    assert crossing(lambda log_gain: -1.0 - log_gain**2, LOG_GAINS, 0.0, 8) is None


def test_a_small_elman_network_that_saturates_at_a_large_gain_has_a_unit_exponent():
    made = family_model("rnn", {}, "rnn", {"hidden": 8, "layers": 1}).build(
        input_size=16, seed=0, dtype=torch.float64, device="cpu"
    )
    x = torch.randn(2, 30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exponents = []
    for gain in (0.125, 16.0):
        scaled_by = changed(made, lambda layer, gain=gain: layer.scale(gain))
        exponents.append(float(lyapunov(scaled_by.model.run(x[:1]), 1).mean[0]))
    assert max(exponents) < 0
    found = load(FIXES["unit exponent"]).apply(RemedyInput(made, "rnn", 29, x, 0, lambda y: y[:, -1].sum()))
    assert abs(float(lyapunov(found.model.run(x[:1]), 1).mean[0])) < 0.1


def test_orthogonal_blocks_are_orthogonal():
    w = treated("orthogonal", word="gru").weights["weight_hh_l0"]
    for block in w.split(12):
        torch.testing.assert_close(block @ block.T, torch.eye(12, dtype=torch.float64))


def test_the_leaky_state_keeps_half_over_the_lag():
    one, found = remedy_input("rnn"), treated("leaky state", word="rnn")
    leak = 1 - 0.5 ** (1 / 30)
    h, expected = torch.zeros(2, 12, dtype=torch.float64), []
    cell = one.model.cells[0]
    for step in one.x.unbind(1):
        h = h + leak * (cell.step(step, h) - h)
        expected.append(h)
    torch.testing.assert_close(found.model(one.x), torch.stack(expected, 1))


@pytest.mark.parametrize("name", ["lstm instead", "gru instead", "lru instead", "attention instead"])
def test_swaps_have_as_many_parameters_as_fit(name):
    one, found = remedy_input("rnn", lag=60), treated(name, word="rnn", lag=60)
    assert 0 < parameters(found.model) <= parameters(one.model)
    assert load(FIXES[name]).apply(remedy_input(name.split()[0])) is None


def test_layers_of_torch_inside_a_module_are_changed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 6, 2, batch_first=True, bidirectional=True)
            self.cell = nn.GRUCell(12, 4)

        def forward(self, x):
            return self.cell(self.rnn(x)[0][:, -1])

    net = Net().double()
    found = changed(WholeModule("net", net, 3, kind="module"), lambda layer: layer.set_bias(1, 7.0) is None)
    assert found is not None
    model, weights = found.model, found.weights
    assert weights["rnn.bias_ih_l1_reverse"][6:12].tolist() == [7.0] * 6
    assert weights["cell.bias_ih"][4:8].tolist() == [7.0] * 4
    assert float(net.rnn.bias_ih_l1_reverse.detach()[6:12].max()) < 1
    assert model.module is not net


def test_an_analysis_measures_at_least_six_for_an_rnn_and_puts_the_best_first():
    (result,) = full_report(RunSpec(models=("rnn",), length=60, hidden=16, batch=2, fix=True), detail=False).models
    assert len(result.fixes) >= 6
    fine = [fix for fix in result.fixes if fix.status == "healthy"]
    # The model with other weights or another step first, other families after it.
    order = [("instead" in fix.name, -round(fix.gradient_share, 2)) for fix in fine]
    assert order == sorted(order)
    assert {another for another, _ in order} == {True, False}
    assert result.fixes[0].status == "healthy"
    assert result.fixes[0].gradient_share > result.summary.gradient_share + 3


def test_what_is_measured_of_a_remedy_is_what_an_analysis_of_it_finds():
    spec = RunSpec(models=("lstm",), length=40, hidden=8, batch=2, fix=True)
    fix = next(one for one in full_report(spec, detail=False).models[0].fixes if one.name == "open gates")
    word = f"lstm:forget_bias={half_life_bias(39)!r}"
    (alone,) = full_report(RunSpec(models=(word,), length=40, hidden=8, batch=2), detail=False).models
    assert fix.gradient_share == pytest.approx(alone.summary.gradient_share, abs=1e-9)
    assert (fix.reach, fix.rate) == (alone.summary.reach, pytest.approx(alone.summary.rate))


class Elman(nn.Module):
    """A loop as people write it, with a head."""

    def __init__(self):
        super().__init__()
        self.u, self.w, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        h, outputs = x.new_zeros(len(x), 8), []
        for step in x.unbind(1):
            h = torch.tanh(self.u(step) + self.w(h))
            outputs.append(self.head(h))
        return torch.stack(outputs, 1)


def test_the_status_of_a_remedy_is_that_of_the_model_it_makes_and_orders_them():
    torch.manual_seed(0)
    x = torch.randn(4, 40, 3, dtype=torch.float64)
    said = {}
    for net in (Elman().double(), nn.RNN(3, 8, batch_first=True).double()):
        spec = RunSpec(models=("net",))
        loss = lambda y: y[:, -1].sum()  # noqa: E731
        measured = measure_fixes(source_from_object(net, "net", spec), spec, x=x, loss=loss)
        ranks = [GRAVEST_FIRST.index(one.result.status) for one in measured if not one.treated.of_training]
        assert ranks == sorted(ranks, reverse=True)
        for one in measured:
            alone = analyze(getattr(one.treated.model, "module", one.treated.model), x, loss).models[0]
            assert one.record().status == alone.status, one.remedy.name
            said[one.remedy.name] = alone.status
    # Of a kind that Jacobians alone can tell: one direction is left of the state.
    assert "degenerate" in said.values()


def test_the_best_remedy_is_saved_with_its_lines(tmp_path):
    spec = RunSpec(models=("lstm",), length=40, hidden=8, batch=2, fix=True, save=str(tmp_path))
    (result,) = full_report(spec, detail=False).models
    best = result.fixes[0].name
    assert any(f"{best} for lstm written to" in note for note in result.notes)
    assert (tmp_path / f"lstm-{best.replace(' ', '_')}.safetensors").exists()
    full_report(replace(spec, remedy="open gates"), detail=False)
    weights = load_file(tmp_path / "lstm-open_gates.safetensors")
    module = nn.LSTM(16, 8, batch_first=True, dtype=torch.float64)
    module.load_state_dict(weights)
    assert module.bias_ih_l0[8:16].tolist() == pytest.approx([half_life_bias(39)] * 8)
    lines = (tmp_path / "lstm-open_gates.py").read_text()
    assert "H : 2 * H" in lines
    assert 'load_file("lstm-open_gates.safetensors"))\n' in lines
    named = RunSpec(models=("lstm",), length=40, hidden=8, batch=2, fix=True, save=str(tmp_path), remedy="chrono")
    full_report(named, detail=False)
    assert (tmp_path / "lstm-chrono.safetensors").exists()
    with pytest.raises(UsageError, match="does not suit"):
        full_report(RunSpec(models=("lstm",), length=40, fix=True, save=str(tmp_path), remedy="identity"), detail=False)


def test_two_models_with_one_remedy_are_saved_beside_each_other(tmp_path):
    spec = RunSpec(models=("rnn", "gru:update_bias=1"), length=20, hidden=6, batch=2, fix=True, save=str(tmp_path))
    full_report(replace(spec, remedy="orthogonal"), detail=False)
    saved = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    assert {name: len(weights["weight_hh_l0"]) for name, weights in saved.items()} == {
        "rnn-orthogonal.safetensors": 6,
        "gru_update_bias=1-orthogonal.safetensors": 18,
    }


def test_bare_jacobians_have_no_remedies(tmp_path):
    import numpy as np

    path = tmp_path / "chain.npy"
    np.save(path, 0.9 * np.eye(3)[None].repeat(20, 0))
    (result,) = full_report(RunSpec(models=(str(path),), fix=True), detail=False).models
    assert result.fixes == ()
    assert math.isclose(result.summary.rate, math.log(0.9), rel_tol=1e-6)


@pytest.mark.parametrize("word", ["rnn", "gru", "lstm"])
def test_critical_steps_have_the_mean_squared_singular_value_asked_for(word):
    given = remedy_input(word)
    found = load(FIXES["critical"]).apply(given)
    assert found is not None
    jacobians = found.model.run(given.x[:1]).dense(0, 31)[0]
    block = jacobians[:, 12:, 12:] if word == "lstm" else jacobians
    chi = float(torch.linalg.svdvals(block).square().mean())
    assert chi == pytest.approx(1.0 if word == "rnn" else 0.25 ** (1 / 30), rel=5e-3)


def test_clipping_is_at_the_quantile_of_the_norms_of_single_sequences():
    given = remedy_input("rnn:init=normal,gain=2.5", lag=40)
    given = replace(given, x=torch.randn(8, 41, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    found = of_sequences(given)
    module = torch.nn.RNN(3, 12, batch_first=True, dtype=torch.float64)
    for name, value in given.model.cells[0].parameters.items():
        getattr(module, f"{name}_l0").data.copy_(value)
    for row, own in zip(given.x, found, strict=True):
        module.zero_grad()
        module(row[None])[0][:, -1].sum().backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])
        assert float(own.norm()) == pytest.approx(float(norm), rel=1e-2)
    treated = load(FIXES["clipped"]).apply(given)
    assert treated is not None
    assert treated.of_training
    assert f"clip at {float(found.norm(dim=1).quantile(0.9)):.3g}" in treated.change


def test_training_is_truncated_where_it_is_chaotic_and_nowhere_else():
    assert load(FIXES["truncated"]).apply(remedy_input("rnn")) is None
    wild = family_model("rnn", {"init": "normal", "gain": "2.5", "hidden": "48"}, "rnn", {})
    given = replace(remedy_input(lag=60), model=wild.build(input_size=3, seed=0, dtype=torch.float64))
    found = load(FIXES["truncated"]).apply(given)
    assert found is not None
    exponent = float(lyapunov(given.model.run(given.x[:1]), 1).mean[0])
    window = round(math.log(2) / exponent)
    assert found.change == f"BPTT over {window} steps"
    x = given.x.clone().requires_grad_()
    found.model(x)[:, -1].sum().backward()
    heard = x.grad.norm(dim=-1).amax(0).nonzero().flatten()
    assert len(heard) == window
    module = torch.nn.RNN(3, 48, batch_first=True, dtype=torch.float64)
    module.load_state_dict({f"{name}_l0": value for name, value in given.model.cells[0].parameters.items()})
    own = given.x.clone().requires_grad_()
    names = {"torch": torch, "rnn": module, "x": own}
    exec(found.code, names)
    names["output"][:, -1].sum().backward()
    torch.testing.assert_close(own.grad, x.grad)


def test_large_states_are_made_critical_without_forming_jacobians(monkeypatch):
    exact = load(FIXES["critical"]).apply(remedy_input("gru"))
    monkeypatch.setattr(solved_numbers, "FORMED", 0)
    found = load(FIXES["critical"]).apply(remedy_input("gru"))
    given = remedy_input("gru")
    bias = [float(one.weights["bias_ih_l0"][12:24].mean()) for one in (exact, found)]
    assert bias[0] == pytest.approx(bias[1], abs=0.05)
    assert given.lag == 30


@pytest.mark.parametrize("word", ["rnn", "lstm", "gru"])
def test_flossing_brings_the_leading_exponents_to_zero_each_its_own(word):
    one, found = remedy_input(word, lag=60), treated("flossing", word=word, lag=60)
    before, after = (lyapunov(model.run(one.x[:1]), 8).mean for model in (one.model, found.model))
    assert float(before.square().sum()) > 1.5
    assert float(after.square().sum()) < 0.05 * float(before.square().sum())
    assert float(after[0].abs()) < 0.1


@pytest.mark.parametrize(("word", "layers"), [("rnn", 1), ("lstm", 2), ("gru", 1)])
def test_the_lines_of_flossing_move_the_weights_as_it_did(word, layers):
    one, found = remedy_input(word, layers=layers), treated("flossing", word=word, layers=layers)
    rnn = as_module(word, one.model)
    exec(found.code, {"torch": torch, "rnn": rnn, "x": one.x[0]})
    for key, value in found.weights.items():
        torch.testing.assert_close(getattr(rnn, key).detach(), value, rtol=1e-4, atol=1e-5)


def test_flossing_reaches_layers_and_cells_inside_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 6, batch_first=True)
            self.cell, self.both = nn.RNNCell(6, 9), nn.GRU(3, 6, bidirectional=True)

        def forward(self, x):
            y, h, seen = self.rnn(x)[0] + self.both(x)[0][..., :6], x.new_zeros(len(x), 9), []
            for t in range(x.shape[1]):
                h = self.cell(y[:, t], h)
                seen.append(h)
            return torch.stack(seen, 1)

    torch.manual_seed(0)
    net, one = Net().double(), remedy_input(lag=40)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = load(FIXES["flossing"]).apply(replace(one, model=WholeModule("net", net, 3, kind="module")))
    changed_keys = {key for key, value in found.weights.items() if not torch.equal(value, before[key])}
    assert {"rnn.weight_hh_l0", "cell.weight_hh"} <= changed_keys
    # What drives the upper layers of a bidirectional module comes from its end too.
    assert not any("both" in key for key in changed_keys)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    layer = Net().double()
    layer.load_state_dict(dict(found.weights))
    driven, h, logs = (
        layer.rnn(one.x[:1])[0] + layer.both(one.x[:1])[0][..., :6],
        torch.zeros(1, 9, dtype=torch.float64),
        [],
    )
    q = torch.eye(9, dtype=torch.float64)
    for t in range(40):
        jacobian = torch.autograd.functional.jacobian(lambda z, t=t: layer.cell(driven[:, t], z), h)[0, :, 0]
        q, r = torch.linalg.qr(jacobian @ q)
        logs.append(r.diagonal().abs().log())
        h = layer.cell(driven[:, t], h).detach()
    assert float(torch.stack(logs).mean(0)[:4].abs().max()) < 0.2


def test_flossing_leaves_alone_what_has_no_finite_exponent():
    one = remedy_input("rnn:nonlinearity=relu")
    for cell in one.model.cells:
        cell.parameters["bias_ih"].fill_(-100.0)
    assert load(FIXES["flossing"]).apply(one) is None


@pytest.mark.parametrize(
    ("name", "word", "layers"),
    [
        ("lstm instead", "rnn", 1),
        ("gru instead", "rnn", 1),
        ("lru instead", "lstm", 1),
        ("attention instead", "lstm", 1),
        ("leaky state", "rnn", 2),
        ("leaky state", "rnn:nonlinearity=relu", 1),
        ("leaky state", "rnn:nonlinearity=linear,bias=false", 1),
        ("layer norm", "rnn", 2),
        ("layer norm", "rnn:bias=false", 1),
    ],
)
def test_lines_of_other_cells_are_modules_that_the_weights_fit(name, word, layers):
    one, found = remedy_input(word, layers=layers), treated(name, word=word, layers=layers)
    space = {}
    exec(found.code, space)
    model = space["model"].double()
    assert sum(value.numel() for value in model.parameters()) == sum(value.numel() for value in found.weights.values())
    drawn = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.clone() for key, value in found.weights.items()})
    output = model(one.x)
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(output, found.model(one.x), rtol=1e-9, atol=1e-12)
    # What it draws by itself is of the size that was measured.
    for key, value in drawn.items():
        mine = found.weights[key]
        if mine.numel() > 60 and float(mine.std()) > 0:
            assert 0.7 < float(value.std() / mine.std()) < 1.4, key
    if name in ("lstm instead", "gru instead"):
        half = len(drawn["bias_ih_l0"]) // (4 if "lstm" in name else 3)
        assert drawn["bias_ih_l0"][half].item() == pytest.approx(half_life_bias(30), rel=1e-2)


def test_what_learned_comes_first_and_what_can_only_be_trained_is_tried_too(monkeypatch):
    outcomes = {"rnn": {"spread": [None, 40], "everywhere": [30, 20]}, "layer norm": {None: [None, 10]}}
    asked = []

    def learned_by(source, spec, told, *, taught=None, everywhere=False):
        asked.append((source.name, taught, everywhere))
        return outcomes.get(source.name, {}).get("everywhere" if everywhere else taught, [None, None])

    monkeypatch.setattr(train_remedies, "learned_by", learned_by)
    spec = RunSpec(models=("rnn",), task="recall", needs_lag=12, hidden=8, fix=True)
    source = source_of("rnn", spec)
    found = train_remedies.proven(source, spec, measure_fixes(source, spec), lambda label, done, of: None)
    trained = [(fix.name, fix.learned, fix.learned_at) for fix in found if fix.runs]
    assert ("rnn", "spread", False) in asked
    assert ("rnn", None, True) in asked
    assert len(trained) == train_remedies.MOST + 2
    assert trained[0] == ("loss at every step", 2, 20)
    assert [name for name, learned, _ in trained if learned][1:] == sorted(
        (name for name, learned, _ in trained[1:] if learned),
        key=lambda name: {"layer norm": 10, "shorter lags too": 40}[name],
    )
    assert [fix.runs is not None for fix in found] == sorted((fix.runs is not None for fix in found), reverse=True)


class Named(nn.Module):
    """Gives its layer the input by name."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 6, batch_first=True)

    def forward(self, x):
        return self.rnn(input=x)[0]


class Packing(Named):
    """Gives its layer a packed sequence."""

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]


class Flat(Named):
    """Takes sequences of one length alone."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6 * 120, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0].flatten(1))


@pytest.mark.parametrize("kind", [Named, Packing, Flat])
@pytest.mark.parametrize("name", list(FIXES))
def test_no_remedy_is_stopped_by_how_a_module_calls_its_layers(kind, name):
    torch.manual_seed(0)
    model = WholeModule("net", kind().double(), 3, kind="module", time_first=False)
    x = torch.randn(2, 120, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spec = RunSpec(needs_lag=60, length=120)
    loss = (lambda y: y.sum()) if kind is Flat else (lambda y: y[:, -1].sum())
    found = treat(load(FIXES[name]), Run(model, x, loss, 0), spec, "net")
    if name in ("open gates", "chrono", "uniform gates", "orthogonal"):
        assert found is not None
    if name == "flossing":
        assert (found is None) == (kind is Packing)


def test_layers_above_one_that_cannot_be_flossed_are_left_alone():
    model = family_model("rnn", {"nonlinearity": "relu"}, "rnn", {"hidden": 4, "layers": 2})
    made = model.build(input_size=16, seed=0, dtype=torch.float64)
    for name in ("bias_ih", "bias_hh"):
        made.cells[0].parameters[name].fill_(-100.0)
    x = torch.randn(1, 30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert load(FIXES["flossing"]).apply(RemedyInput(made, "rnn", 20, x, 0, lambda y: y.sum())) is None
