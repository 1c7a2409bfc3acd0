"""Every task needs exactly the lag it is made for."""

from __future__ import annotations

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.registry import TASKS, load
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.tasks import kind_of, own_task, task_of

BUILT_IN = [name for name in TASKS if name != "digits"]
CASES = [(name, kind) for name in BUILT_IN for kind in load(TASKS[name]).kinds]


def drawn(name, kind, lag=12, batch=64, seed=0):
    task = load(TASKS[name])
    return task, task.draw(torch.Generator().manual_seed(seed), batch, lag, kind)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_samples_have_the_shapes_that_the_task_declares(name, kind):
    task, samples = drawn(name, kind)
    assert samples.x.shape == (64, 12 + task.answers, task.features)
    assert samples.x.dtype == torch.float32
    assert samples.target.shape == (64, task.answers)
    assert samples.target.is_floating_point() == task.values
    assert task.values or 0 <= int(samples.target.min()) <= int(samples.target.max()) < task.outputs
    assert not task.symbols or bool((samples.x.argmax(-1) < task.features).all())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equal_seeds_draw_equal_samples(name, kind):
    (_, one), (_, two), (_, other) = drawn(name, kind), drawn(name, kind), drawn(name, kind, seed=1)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.target, two.target)
    assert not torch.equal(one.x, other.x)


@pytest.mark.parametrize("name", BUILT_IN)
def test_chance_is_the_error_of_the_best_blind_answer(name):
    task, samples = drawn(name, load(TASKS[name]).kinds[0], batch=4096)
    if task.values:
        blind = samples.target.mean().expand_as(samples.target)[..., None]
    else:
        blind = samples.target.flatten().bincount(minlength=task.outputs).float().expand(*samples.target.shape, -1)
    assert float(task.error(blind, samples.target)) == pytest.approx(task.chance, rel=0.06)


def test_recall_asks_for_the_marked_symbol_at_the_lag():
    task, samples = drawn("recall", "fixed")
    assert torch.equal(samples.x[:, 0, :-1].argmax(-1), samples.target[:, 0])
    assert bool((samples.x[:, 0, -1] == 1).all())
    assert float(samples.x[:, 1:, -1].sum()) == 0
    spread = drawn("recall", "spread")[1]
    places = spread.x[..., -1].argmax(-1)
    assert set(places.tolist()) == set(range(12))
    at = spread.x[torch.arange(64), places, : task.outputs].argmax(-1)
    assert torch.equal(at, spread.target[:, 0])


def test_copy_says_each_symbol_again_after_exactly_the_lag():
    task, samples = drawn("copy", "fixed")
    for place in range(task.answers):
        assert torch.equal(samples.x[:, place, : task.outputs].argmax(-1), samples.target[:, place])
        assert bool((samples.x[:, 12 + place, -1] == 1).all())
    assert bool((samples.x[:, task.answers :, task.outputs] == 1).all())


def test_adding_adds_the_marked_numbers():
    for kind in ("fixed", "spread"):
        _, samples = drawn("adding", kind)
        numbers, marks = samples.x.unbind(-1)
        assert bool((marks.sum(1) == 2).all())
        torch.testing.assert_close((numbers * marks).sum(1), samples.target[:, 0])
    assert bool((drawn("adding", "fixed")[1].x[:, [0, -1], 1] == 1).all())


def test_xor_and_parity_depend_on_each_bit():
    _, samples = drawn("xor", "spread")
    bits, marks = samples.x[..., 1], samples.x[..., 2]
    assert torch.equal((bits * marks).sum(1).long() % 2, samples.target[:, 0])
    _, samples = drawn("parity", "fixed")
    assert torch.equal(samples.x[..., 1].sum(1).long() % 2, samples.target[:, 0])


def test_digits_are_shown_pixel_by_pixel():
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    task, samples = drawn("digits", "spread", lag=80)
    assert samples.x.shape == (64, 81, 1)
    assert float(samples.x[:, 64:].abs().sum()) == 0
    assert float(samples.x.max()) == 1
    assert task.shortest == 63


def test_losses_are_those_of_torch():
    task, samples = drawn("copy", "fixed")
    read = torch.randn(2, 64, task.answers, task.outputs, generator=torch.Generator().manual_seed(0))
    target = samples.target.expand(2, -1, -1)
    own = [torch.nn.functional.cross_entropy(one.flatten(0, 1), samples.target.flatten()) for one in read]
    torch.testing.assert_close(task.loss(read, target), torch.stack(own))
    adding, samples = drawn("adding", "fixed")
    answer = torch.rand(64, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        adding.loss(answer, samples.target), torch.nn.functional.mse_loss(answer[..., 0], samples.target)
    )


OWN = """
import torch

def task(batch, lag, generator):
    x = torch.randn(batch, lag + 2, 3, generator=generator)
    return x, (x[:, 0, 0] > 0).long()

def values(batch, lag, generator):
    x = torch.randn(batch, lag + 1, 1, generator=generator)
    return x, x[:, 0, 0]

def short(batch, lag, generator):
    return torch.randn(batch, lag, 3), torch.zeros(batch).long()

def same(batch, lag, generator):
    return torch.randn(batch, lag + 1, 3), torch.zeros(batch).long()

def broken(batch, lag, generator):
    raise RuntimeError("no data")
"""


def test_a_task_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    found = own_task(f"{tmp_path}/mine.py:task", 5)
    assert (found.features, found.outputs, found.values) == (3, 2, False)
    assert found.chance == pytest.approx(0.5, abs=0.05)
    values = own_task(f"{tmp_path}/mine.py:values", 5)
    assert values.values
    assert values.goal == pytest.approx(values.chance / 10)
    for name, words in (("short", "needs 6"), ("same", "one class"), ("broken", "no data"), ("absent", "absent")):
        with pytest.raises(UsageError, match=words):
            own_task(f"{tmp_path}/mine.py:{name}", 5)


def test_a_task_takes_the_place_of_sequence_and_loss():
    spec = RunSpec(task="adding", needs_lag=9, lags="spread")
    batch = make_batch(spec, seed=0, input_size=2)
    assert batch.x.shape == (32, 10, 2)
    assert batch.asked is not None
    assert batch.asked.shape == (32, 1)
    assert make_batch(spec, seed=0, input_size=5).x.shape == (32, 10, 5)
    assert kind_of(spec, task_of(spec)) == "spread"


def test_what_a_task_cannot_be():
    with pytest.raises(UsageError, match="fixed"):
        task_of(RunSpec(task="parity", needs_lag=5, lags="spread"))
    with pytest.raises(UsageError, match="--lag 3 or more"):
        task_of(RunSpec(task="copy", needs_lag=1))


REFUSED = """
import torch
def rare(batch, lag, generator):
    y = torch.arange(batch) % 2
    y[0] = 2 if batch != 1024 else 1
    return torch.ones(batch, lag + 1, 1), y
def below(batch, lag, generator):
    return torch.ones(batch, lag + 1, 1), torch.arange(batch) % 2 * 2 - 1
def missing(batch, lag, generator):
    y = torch.arange(batch) / batch
    y[0] = float("nan")
    return torch.ones(batch, lag + 1, 1), y
def whole(batch, lag, generator):
    return torch.ones(batch, lag + 1, 1).long(), torch.arange(batch) % 2
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rare", "returned class 2, which none of 1024 samples had before"),
        ("below", "returned class -1; classes are whole numbers from 0"),
        ("missing", "returned a target that is not finite"),
        ("whole", r"returned x \(1024, 5, 1\) of int64 and target \(1024,\) of int64"),
    ],
)
def test_a_task_of_the_users_own_that_cannot_be_is_one_line(tmp_path, name, said):
    (tmp_path / "own.py").write_text(REFUSED)
    with pytest.raises(UsageError, match=said):
        own_task(f"{tmp_path}/own.py:{name}", 4).draw(torch.Generator(), 8, 4, "fixed")
