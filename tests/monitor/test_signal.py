"""The cheap signal is what a whole analysis finds, for every way a layer of torch.nn is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.monitor.layer_recorder import LayerRecorder
from gradscope.monitor.layer_signal import Signal, influence
from gradscope.monitor.whole_analysis import reading

LENGTH = 12


def raised(error: Exception) -> None:
    raise error


def listened(layer: nn.RNNBase, use, x: Tensor, *state: object) -> LayerRecorder:
    """A recorder after one forward and backward pass of what `use` makes of the layer's outputs."""
    recorder = LayerRecorder("rnn", layer, lambda recorder: True, raised)
    use(*layer(x, *state)).backward()
    recorder.remove()
    return recorder


def last(output: Tensor, _state: object) -> Tensor:
    return output[:, -1].square().sum()


def every(output: Tensor, _state: object) -> Tensor:
    return output.square().sum()


def hidden(_output: object, state: object) -> Tensor:
    h = state[0] if isinstance(state, tuple) else state
    return h[-1].square().sum()


LAYERS = [
    nn.LSTM(3, 5, batch_first=True),
    nn.GRU(3, 5, 2, batch_first=True),
    nn.RNN(3, 5, nonlinearity="relu", batch_first=True),
    nn.LSTM(3, 5, 2, batch_first=True, dropout=0.5, proj_size=4),
    nn.RNN(3, 5, bias=False, batch_first=True),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("use", [last, every, hidden])
def test_influence_is_that_of_autograd_one_step_at_a_time(layer, use):
    torch.manual_seed(0)
    layer.reset_parameters()
    x = torch.randn(4, LENGTH, 3)
    recorder = listened(layer, use, x)
    heard = recorder.heard(1.0)
    logs, _, _ = influence(layer, heard, heard.anchor, 3)
    plain = layer.eval()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((plain(leaf)[0][:, -1] * heard.newest).sum(), leaf)
    layer.train()
    expected = (gradient / heard.newest.norm()).norm(dim=-1).log10().flip(1)
    assert heard.anchor == LENGTH
    assert heard.reads == (LENGTH if use is every else 1)
    torch.testing.assert_close(logs, expected.double(), atol=1e-3, rtol=0)


def test_reach_share_and_rate_are_those_of_analyze():
    torch.manual_seed(1)
    layer, x = nn.GRU(3, 16, batch_first=True), torch.randn(4, 40, 3)
    recorder = listened(layer, last, x)
    point = Signal(layer, recorder.heard(1.0), "rnn", 20).point(7)
    sent = recorder.heard(1.0).newest.double()
    report = gradscope.analyze(layer, x.double(), lambda y: (y[:, -1] * sent).sum(), needs_lag=20)
    summary = report.models[0].summary
    assert (point.step, point.reach, point.needed_lag) == (7, summary.reach, 20)
    assert point.gradient_share == pytest.approx(summary.gradient_share, abs=1e-3)
    assert point.rate == pytest.approx(summary.rate, abs=1e-4)
    assert point.status == report.models[0].status


def test_time_first_and_packed_batches_say_the_same():
    torch.manual_seed(2)
    layer, x = nn.LSTM(3, 5), torch.randn(LENGTH, 4, 3)
    plain = listened(layer, lambda y, s: y[-1].square().sum(), x).heard(1.0)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([LENGTH] * 4))
    also = listened(layer, lambda y, s: s[0][-1].square().sum(), packed).heard(1.0)
    assert plain.x.shape == also.x.shape == (4, LENGTH, 3)
    torch.testing.assert_close(influence(layer, plain, LENGTH, 3)[0], influence(layer, also, LENGTH, 3)[0])


def test_of_a_packed_batch_the_longest_sequences_are_measured():
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(3, LENGTH, 3)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([LENGTH, LENGTH, 4]), batch_first=True)
    heard = listened(layer, lambda y, s: y.data.square().sum(), packed).heard(1.0)
    assert heard.x.shape == (2, LENGTH, 3)
    assert heard.anchor == LENGTH


def test_a_state_that_was_handed_over_is_where_it_starts():
    torch.manual_seed(3)
    layer, x = nn.LSTM(3, 5, batch_first=True), torch.randn(2, LENGTH, 3)
    state = (torch.full((1, 2, 5), 3.0), torch.full((1, 2, 5), -3.0))
    with_state, without = (
        influence(layer, listened(layer, last, x, *s).heard(1.0), LENGTH, 3)[0] for s in ((state,), ())
    )
    assert not torch.allclose(with_state, without)


def test_an_early_anchor_gives_the_lags_before_it():
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(2, LENGTH, 3)
    heard = listened(layer, lambda y, s: y[:, 4].square().sum(), x).heard(1.0)
    assert heard.anchor == 5
    assert Signal(layer, heard, "rnn", None).point(0).needed_lag == 4


def test_what_float32_loses_is_found_and_said():
    torch.manual_seed(4)
    layer, x = nn.RNN(3, 8, batch_first=True), torch.randn(2, 300, 3)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.3)
    recorder = listened(layer, last, x)
    point = Signal(layer, recorder.heard(1.0), "rnn", 250).point(0)
    assert -308 < point.gradient_share < -60
    assert 20 < point.below_float32 < 250
    # The very gradient of the training is exactly zero from there on.
    leaf = x.clone().requires_grad_()
    last(*layer(leaf)).backward()
    sizes = leaf.grad.abs().amax((0, 2)).flip(0)
    assert float(sizes[point.below_float32 + 2]) == 0.0


def test_beyond_the_needed_lag_what_float32_loses_is_unknown_and_not_zero():
    torch.manual_seed(4)
    layer, x = nn.RNN(3, 8, batch_first=True), torch.randn(2, 300, 3)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.3)
    near = Signal(layer, listened(layer, last, x).heard(1.0), "rnn", 10).point(0)
    far = Signal(layer, listened(layer, last, x).heard(1.0), "rnn", 250).point(0)
    assert near.log10_influence[-1] is None
    assert -308 < far.log10_influence[-1] < -60
    assert near.below_float32 == pytest.approx(far.below_float32, abs=40)
    assert near.reach == far.reach


def test_the_loss_scale_is_divided_out_of_sizes_alone():
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(2, LENGTH, 3)
    plain = listened(layer, last, x).heard(1.0)
    scaled = listened(layer, lambda y, s: 65536 * last(y, s), x).heard(65536.0)
    (logs, size, _), (same, also, _) = (influence(layer, heard, LENGTH, 3) for heard in (plain, scaled))
    torch.testing.assert_close(logs, same, atol=1e-5, rtol=0)
    assert size == pytest.approx(also, abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (nn.LSTM(3, 5, bidirectional=True, batch_first=True), torch.randn(2, 6, 3), "reads the future"),
        (nn.GRU(3, 5, batch_first=True), torch.randn(2, 1, 3), "one step at a time"),
        (nn.GRU(3, 5), torch.randn(6, 3), "no batch of sequences"),
    ],
)
def test_what_has_no_lags_says_why(layer, x, reason):
    recorder = listened(layer, lambda y, s: y.sum(), x)
    assert recorder.heard(1.0) is None
    assert reason in recorder.reason


def test_nothing_is_kept_without_a_graph_or_unless_wanted():
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(2, 6, 3)
    silent, recorder = (
        LayerRecorder("a", layer, lambda recorder: False, raised),
        LayerRecorder("b", layer, lambda recorder: True, raised),
    )
    with torch.no_grad():
        layer(x)
    assert not recorder.ran
    layer(x)[0].sum().backward()
    assert recorder.ran
    assert not silent.ran


def test_a_loss_that_reads_only_the_first_output_has_no_lags():
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(2, 6, 3)
    with pytest.raises(ValueError, match="no output that has steps before it"):
        Signal(layer, listened(layer, lambda y, s: y[:, 0].sum(), x).heard(1.0), "rnn", None).point(0)


@pytest.mark.parametrize(
    ("reads", "steps", "rows"),
    [
        (lambda y: y[9:, -1].square().sum(), LENGTH, range(9, 12)),
        (lambda y: (y[:, -1].square().sum(-1) * (torch.arange(12) % 5 == 4)).sum(), LENGTH, (4, 9)),
        # A mean over the last output of each: the longest sequences tell of the oldest steps.
        (lambda y: y[torch.arange(12), torch.arange(12) // 3 * 2 + 3].square().sum(), 10, range(9, 12)),
        (lambda y: y[1:, -1].square().sum(), LENGTH, range(1, 9)),
    ],
)
def test_sequences_are_those_that_the_loss_reads(reads, steps, rows):
    torch.manual_seed(6)
    layer, x = nn.GRU(3, 5, batch_first=True), torch.randn(12, LENGTH, 3)
    recorder = listened(layer, lambda y, s: reads(y), x)
    signal = Signal(layer, recorder.heard(1.0), "rnn", None)
    leaf = x.clone().requires_grad_()
    (sizes,) = torch.autograd.grad(reads(layer(leaf)[0]), leaf)
    # One output of each sequence is read: the gradient of the loss is the influence but for the size of dL/dy.
    logs = sizes[list(rows), :steps].double().norm(dim=-1).log10().flip(1)
    assert signal.anchor == steps
    assert torch.equal(recorder.heard(1.0).x, x[list(rows)])
    torch.testing.assert_close(signal.logs - signal.logs[:, :1], logs - logs[:, :1], atol=1e-3, rtol=0)


def test_of_packed_sequences_those_count_that_the_loss_reads():
    torch.manual_seed(7)
    layer, x, lengths = nn.GRU(3, 5, batch_first=True), torch.randn(12, 9, 3), [*[9] * 9, 6, 5, 6]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    recorder = LayerRecorder("rnn", layer, lambda recorder: True, raised)
    layer(packed)[1][0, 9:].square().sum().backward()
    recorder.remove()
    heard = recorder.heard(1.0)
    assert torch.equal(heard.x, x[[9, 11], :6])
    leaf = x[[9, 11], :6].clone().requires_grad_()
    (sizes,) = torch.autograd.grad(layer(leaf)[1].square().sum(), leaf)
    logs = sizes.double().norm(dim=-1).log10().flip(1)
    found = Signal(layer, heard, "rnn", None).logs
    torch.testing.assert_close(found - found[:, :1], logs - logs[:, :1], atol=1e-3, rtol=0)


def test_exactly_zero_influence_stays_zero():
    layer, x = nn.RNN(1, 2, nonlinearity="relu", batch_first=True), torch.rand(2, 8, 1)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        for weight in (layer.weight_ih_l0, layer.bias_ih_l0, layer.bias_hh_l0):
            weight.fill_(1.0)
    point = Signal(layer, listened(layer, last, x).heard(1.0), "rnn", 5).point(0)
    assert point.gradient_share == -math.inf
    assert point.reach is None


def test_of_several_passes_before_one_backward_the_last_is_heard():
    torch.manual_seed(5)
    layer, first, second = nn.GRU(3, 5, batch_first=True), torch.randn(2, 6, 3), torch.randn(4, 9, 3)
    recorder = LayerRecorder("rnn", layer, lambda recorder: True, raised)
    (layer(first)[0].square().sum() + layer(second)[0][:, -1].sum()).backward()
    recorder.remove()
    heard = recorder.heard(1.0)
    assert heard.x.shape == (4, 9, 3)
    assert heard.output.shape == (4, 9, 5)
    assert heard.reads == 1


@dataclass
class Scores:
    """What a module returns under names."""

    mask: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize("form", [lambda y, m: y, Scores, lambda y, m: {"mask": m, "logits": y}])
def test_masked_scores_in_any_structure_are_read_without_what_is_masked(form) -> None:
    y = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([True, False, False])
    masked = y.masked_fill(mask, -torch.inf)
    read = reading(form(masked, mask) if form is not Scores else Scores(mask, masked))
    drawn = torch.randn((2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert read.item() == pytest.approx((y[:, -1] * drawn)[:, 1:].sum().item())
