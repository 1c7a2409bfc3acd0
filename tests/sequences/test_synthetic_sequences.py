from __future__ import annotations

import math

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch
from gradscope.sequences.synthetic import SEQUENCES


@pytest.mark.parametrize("name", SEQUENCES)
def test_default_shape_and_placement(name: str) -> None:
    batch = make_batch(RunSpec(sequence=name), seed=0)
    assert batch.x.shape == (8, 200, 16)
    assert batch.x.dtype == torch.float64
    assert batch.x.isfinite().all()
    assert (batch.tokens, batch.token_ids, batch.vocabulary, batch.notes) == (None, None, None, ())
    assert batch.source == name


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_model_without_input_gets_no_features(name: str) -> None:
    assert make_batch(RunSpec(sequence=name, length=5, batch=2), seed=0, input_size=0).x.shape == (2, 5, 0)


def test_random_is_standard_normal_and_seeded() -> None:
    first = make_batch(RunSpec(), seed=0).x
    assert first[0, 0, :3].tolist() == pytest.approx([-1.8331828847764045, 0.4318663240860895, 1.0346242362364229])
    assert first.mean().item() == pytest.approx(0.0, abs=0.03)
    assert first.var().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(first, make_batch(RunSpec(), seed=0).x)
    assert not torch.equal(first, make_batch(RunSpec(), seed=1).x)


def test_a_random_sequence_does_not_depend_on_the_batch() -> None:
    assert torch.equal(make_batch(RunSpec(batch=1), seed=3).x[0], make_batch(RunSpec(batch=4), seed=3).x[0])


def test_the_sequences_of_a_random_batch_differ() -> None:
    x = make_batch(RunSpec(batch=2), seed=0).x
    assert (x[0] != x[1]).all()


def test_impulse_is_one_at_the_first_step_only() -> None:
    x = make_batch(RunSpec(sequence="impulse", length=3, batch=2, input_size=2), seed=0).x
    assert x.tolist() == [[[1, 1], [0, 0], [0, 0]]] * 2


def test_zeros_are_zero() -> None:
    assert make_batch(RunSpec(sequence="zeros"), seed=0).x.abs().max().item() == 0.0


def test_sine_has_the_documented_periods_and_phases() -> None:
    x = make_batch(RunSpec(sequence="sine", length=128, batch=2, input_size=6), seed=0).x
    half = math.sqrt(0.5)
    assert x[0, :4, 0].tolist() == pytest.approx([half, 1.0, half, 0.0], abs=1e-12)
    # a quarter of the periods 8, 16, 32, 64, 128
    assert [x[0, step - 1, feature].item() for feature, step in enumerate((2, 4, 8, 16, 32))] == pytest.approx(
        [1.0] * 5
    )
    # feature 5 repeats the period of 8 shifted by 0.414... turns, sequence 1 by 0.618... more
    assert x[0, 0, 5].item() == pytest.approx(math.sin(2 * math.pi * (0.125 + 0.414213562373095)))
    assert x[1, 0, 5].item() == pytest.approx(math.sin(2 * math.pi * (0.125 + 0.414213562373095 + 0.618033988749895)))


@pytest.mark.parametrize("spec", [RunSpec(), RunSpec(sequence="sine"), RunSpec(text="a b a", tokens="char")])
def test_the_global_generator_is_left_alone(spec: RunSpec) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_batch(spec, seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float64", torch.float64), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_every_dtype_rounds_the_same_numbers(name: str, dtype: torch.dtype) -> None:
    x = make_batch(RunSpec(dtype=name, length=4), seed=0).x
    assert x.dtype == dtype
    assert torch.equal(x, make_batch(RunSpec(length=4), seed=0).x.to(dtype))


def test_what_the_model_takes_decides_over_the_general_size() -> None:
    assert make_batch(RunSpec(input_size=3), seed=0).x.shape == (8, 200, 3)
    assert make_batch(RunSpec(input_size=3), seed=0, input_size=5).x.shape == (8, 200, 5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            RunSpec(sequence="sin"),
            "unknown sequence 'sin'; did you mean 'sine'? (one of: random, zeros, impulse, sine)",
        ),
        (RunSpec(length=0), "--length 0 leaves nothing to look back on; use 2 or more"),
        (RunSpec(length=1), "--length 1 leaves nothing to look back on; use 2 or more"),
        (RunSpec(batch=0), "--batch 0 holds no sequence; use 1 or more"),
        (RunSpec(item=8), "--item 8 is not among the 8 sequences; use 0 to 7"),
        (RunSpec(item=-1), "--item -1 is not among the 8 sequences; use 0 to 7"),
        (
            RunSpec(input_size=-1),
            "--input-size -1 is negative; use 0 for a model without input, else 1 or more",
        ),
        (
            RunSpec(needs_lag=200),
            "--needs-lag 200 needs 201 steps, the sequence has 200; lower it to 199 or less, or raise --length",
        ),
        (
            RunSpec(text="a b c d", needs_lag=4),
            "--needs-lag 4 needs 5 word tokens, the text has 4; lower it to 3 or less, or give a longer text",
        ),
        (
            RunSpec(text="a b c d e f", length=3, needs_lag=4),
            "--needs-lag 4 needs 5 word tokens, the text has 3; lower it to 2 or less, or raise --length",
        ),
        (
            RunSpec(needs_lag=0),
            "--needs-lag 0 looks back at nothing; use 1 or more",
        ),
        (
            RunSpec(dtype="float8"),
            "unknown dtype 'float8'; did you mean 'float64'? (one of: float64, float32, bfloat16, float16)",
        ),
        (
            RunSpec(text="a b", input="a.csv"),
            "--text and --input are both given, one sequence is needed; leave one out",
        ),
    ],
)
def test_a_wrong_request_is_one_line_with_its_remedy(spec: RunSpec, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_batch(spec, seed=0)
    assert str(caught.value) == message


@pytest.mark.parametrize("device", ["tpu9", "", "cuda:99", "meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UsageError, match="use --device cpu") as caught:
        make_batch(RunSpec(device=device, length=2), seed=0)
    assert "\n" not in str(caught.value)


def test_more_than_memory_holds_is_refused_with_a_length_that_fits() -> None:
    with pytest.raises(
        UsageError, match=r"^8 random sequences of 10{15} steps and 16 features and .* takes 9.*; use --length \d+ or"
    ):
        make_batch(RunSpec(length=10**15), seed=0)
