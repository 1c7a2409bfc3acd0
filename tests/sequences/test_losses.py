from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradscope import analyze
from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.losses import LOSSES, Loss, direction, make_loss, readout
from gradscope.sequences.make_batch import make_batch

TEXT = "a b c b"


def built(loss: str, *, seed: int = 0, text: str | None = None, **options: object) -> Loss:
    spec = RunSpec(loss=loss, text=text, length=None if text else 4, batch=None if text else 2, **options)  # type: ignore[arg-type]
    return make_loss(spec, make_batch(spec, seed=0), seed=seed)


def error(loss: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        built(loss, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outputs(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    count = int(np.prod(shape))
    return torch.linspace(-1, 1, count, dtype=torch.float64).reshape(shape).to(dtype).requires_grad_()


def target(folder: Path, values: object) -> str:
    path = folder / "t.npy"
    np.save(path, np.asarray(values))
    return str(path)


def gradient(loss: Loss, output: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss(output), output)[0]


def test_direction_is_a_unit_vector_of_seed_and_size_alone() -> None:
    u = direction(0, 4)
    assert u.tolist() == pytest.approx(
        [0.0271289271118358, 0.6810316423908387, -0.1766211581582433, -0.7101161101306167]
    )
    assert direction(3, 64).norm().item() == pytest.approx(1.0, abs=1e-15)
    assert not torch.equal(u, direction(1, 4))


def test_readout_has_variance_one_over_features() -> None:
    assert readout(0, 100, 400).var().item() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(readout(2, 5, 3), readout(2, 5, 3))


def test_final_reaches_the_last_step_with_a_unit_cotangent_in_every_sequence() -> None:
    loss = built("final")
    v = gradient(loss, outputs(2, 4, 3))
    assert v[:, :-1].abs().max().item() == 0.0
    assert torch.equal(v[0, -1], direction(0, 3))
    # a sum over the batch, no mean
    assert torch.equal(v[1, -1], direction(0, 3))
    assert loss.final_only
    assert (loss.name, loss.notes) == ("final", ())


def test_every_puts_the_vector_of_final_at_every_step() -> None:
    loss = built("every")
    v = gradient(loss, outputs(2, 4, 3))
    assert torch.equal(v, direction(0, 3).expand(2, 4, 3))
    assert not loss.final_only


def test_final_takes_an_output_of_the_last_step_alone() -> None:
    output = outputs(2, 4, 3)
    assert built("final")(output[:, -1]).item() == pytest.approx(built("final")(output).item(), abs=1e-15)


@pytest.mark.parametrize("name", ["final", "every"])
def test_one_answer_a_sequence_and_a_scalar(name: str) -> None:
    numbers = outputs(1, 4, 2)[0, :, 0]
    assert built(name)(numbers).item() == built(name)(numbers[:, None]).item()
    assert abs(built(name)(numbers).item()) == pytest.approx(abs(numbers.sum().item()), abs=1e-15)
    assert built(name)(numbers[0]).item() == numbers[0].item()


def test_next_token_cross_entropy_by_hand() -> None:
    loss = built("ce", text=TEXT)
    output = outputs(1, 4, 2)
    logits = output.detach()[0, :3] @ readout(0, 2, 3)
    probability = logits.exp() / logits.exp().sum(1, keepdim=True)
    # tokens 0 1 2 1: steps 1..3 predict 1, 2, 1
    expected = -(probability[0, 1] * probability[1, 2] * probability[2, 1]).log()
    assert loss(output).item() == pytest.approx(expected.item(), abs=1e-14)
    v = gradient(loss, output)
    assert (v[0, :3].norm(dim=1) > 1e-3).all()
    assert v[0, 3].abs().max().item() == 0.0
    assert loss.notes == ("cross-entropy of the next of 3 tokens through a seeded readout",)
    assert not loss.final_only


def test_cross_entropy_of_equal_logits_is_ln_classes_per_prediction() -> None:
    zeros = torch.zeros(1, 4, 5, dtype=torch.float64)
    assert built("ce", text=TEXT)(zeros).item() == pytest.approx(3 * 1.0986122886681098)


@pytest.mark.parametrize(
    ("values", "notes", "reached"),
    [
        ([0, 1, 1, 0], ("all 2 sequences share one target",), [True, True, True, True]),
        ([[0, 1, 1, 0], [1, 1, 1, 1]], (), [True, True, True, True]),
        ([[0.0, 1, 1, 0, 9], [1, 1, 1, 1, 9], [9] * 5], None, [True, True, True, True]),
        ([0, 1], ("one target class per sequence",), [False, False, False, True]),
        ([[0], [1]], ("one target class per sequence",), [False, False, False, True]),
    ],
)
def test_classes_from_a_file(
    tmp_path: Path, values: object, notes: tuple[str, ...] | None, reached: list[bool]
) -> None:
    loss = built("ce", target=target(tmp_path, values))
    zeros = torch.zeros(2, 4, 5, dtype=torch.float64, requires_grad=True)
    steps = sum(reached)
    assert loss(zeros).item() == pytest.approx(2 * steps * 0.6931471805599453)
    assert [bool(norm > 0) for norm in gradient(loss, zeros)[0].norm(dim=1)] == reached
    cut = ("first 4 of 5 steps of the target", "first 2 of 3 sequences of the target")
    assert loss.notes == ("cross-entropy of 2 classes through a seeded readout", *(cut if notes is None else notes))
    assert loss.final_only == (steps == 1)


def test_a_class_per_sequence_takes_an_output_of_the_last_step_alone(tmp_path: Path) -> None:
    loss = built("ce", target=target(tmp_path, [0, 1]))
    output = outputs(2, 4, 3)
    assert loss(output[:, -1]).item() == loss(output).item()


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_a_target_is_cut_into_the_stretches_of_its_input(tmp_path: Path, loss: str) -> None:
    rows = np.arange(10)
    answers = rows % 3 if loss == "ce" else rows * 0.5
    np.save(tmp_path / "x.npy", rows[:, None] * 0.1)
    options = {"input": str(tmp_path / "x.npy"), "target": target(tmp_path, answers)}
    measured = built(loss, **options)
    y = outputs(2, 4, 1)
    own = torch.from_numpy(answers[:8].reshape(2, 4))
    if loss == "mse":
        wanted = (y[..., 0] - own).square().sum()
    else:
        logits = y @ readout(0, 1, 3)
        wanted = -logits.log_softmax(-1).gather(-1, own[..., None]).sum()
    assert torch.allclose(measured(y), wanted, rtol=1e-14)
    assert "the target is cut into the input's 2 stretches" in measured.notes
    assert "first 8 of 10 steps of the target" in measured.notes
    short = options | {"target": target(tmp_path, answers[:7])}
    assert "has 7 steps, the input's 2 stretches of 4 need 8" in error(loss, **short)


def test_a_long_class_file_is_cut_like_the_input(tmp_path: Path) -> None:
    loss = built("ce", text=TEXT, target=target(tmp_path, [0, 1, 0, 1, 5, 5]))
    assert loss.notes[1:] == ("first 4 of 6 steps of the target",)
    assert loss(torch.zeros(1, 4, 2)).item() == pytest.approx(4 * 0.6931471805599453)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 1.5, 0], "has 1.5, classes are whole numbers from 0; use --loss mse for values"),
        ([0, 1, -1, 0], "has -1, classes are whole numbers from 0; use --loss mse for values"),
        ([0, 0, 0, 0], "holds class 0 alone, which leaves nothing to learn; at least 2 are needed"),
        ([0, 1, np.nan, 0], "has nan at row 3, column 1; fill or remove it"),
        ([0, 1, 2], "has shape (3,), B=2 sequences of T=4 steps need (T,), (B, T) or (B,); cut or reshape the target"),
    ],
)
def test_targets_that_are_no_classes(tmp_path: Path, values: object, message: str) -> None:
    name = target(tmp_path, values)
    assert error("ce", target=name).startswith(f"--target '{name}' {message}")


def test_cross_entropy_needs_something_to_predict() -> None:
    assert error("ce") == "--loss ce needs text or classes; add --text or --target FILE, or use --loss final"
    assert error("ce", text="a a a").startswith("--loss ce: the text repeats one token")
    assert error("ce", target="no.npy") == "--target 'no.npy' does not exist; check the path"


def test_next_input_square_error_by_hand(tmp_path: Path) -> None:
    path = target(tmp_path, [[1.0, 0.0], [2.0, 4.0], [0.0, 2.0]])
    spec = RunSpec(loss="mse", input=path)
    loss = make_loss(spec, make_batch(spec, seed=0), seed=0)
    output = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [9.0, 9.0]]], dtype=torch.float64, requires_grad=True)
    # ((1-2)^2 + (1-4)^2)/2 + (0^2 + 2^2)/2
    assert loss(output).item() == 7.0
    assert gradient(loss, output).tolist() == [[[-1, -3], [0, -2], [0, 0]]]
    assert loss.notes == (
        "squared error of the next input: output t against input t+1",
        "through a seeded readout where the output does not have 2 features",
    )


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        ([1, 2, 3, 4], ("all 2 sequences share one target",)),
        ([[1], [2], [3], [4], [5]], ("first 4 of 5 steps of the target", "all 2 sequences share one target")),
        ([[[1], [2], [3], [4]]] * 3, ("first 2 of 3 sequences of the target",)),
    ],
)
def test_values_from_a_file(tmp_path: Path, values: object, notes: tuple[str, ...]) -> None:
    loss = built("mse", target=target(tmp_path, values))
    assert loss(torch.zeros(2, 4, 1, dtype=torch.float64)).item() == 2 * (1 + 4 + 9 + 16)
    assert loss.notes[:-1] == notes


def test_values_of_another_size_go_through_the_readout(tmp_path: Path) -> None:
    loss = built("mse", target=target(tmp_path, np.zeros((4, 2))))
    output = outputs(2, 4, 3)
    expected = (output.detach() @ readout(0, 3, 2)).square().sum().item() / 2
    assert loss(output).item() == pytest.approx(expected)


def test_values_that_do_not_fit(tmp_path: Path) -> None:
    name = target(tmp_path, np.zeros((3, 2)))
    sizes = "B=2 sequences of T=4 steps need (T,), (T, F), (B, T), (B, T, F) or (B,); cut or reshape the target"
    assert error("mse", target=name) == f"--target '{name}' has shape (3, 2), {sizes}"
    assert error("mse", input_size=0) == "--loss mse predicts the next input, this model takes none; add --target FILE"


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_one_value_of_the_only_sequence_is_asked_at_its_end(tmp_path: Path, shape: tuple[int, ...]) -> None:
    spec = RunSpec(loss="mse", length=4, batch=1, target=target(tmp_path, np.full(shape, 2.0)))
    loss = make_loss(spec, make_batch(spec, seed=0), seed=0)
    output = outputs(1, 1)
    assert loss(output).item() == pytest.approx((output.item() - 2) ** 2)


def test_a_shape_is_told_as_the_file_has_it(tmp_path: Path) -> None:
    name = target(tmp_path, np.zeros((7, 1), dtype=np.int64))
    assert f"--target '{name}' has shape (7, 1), B=2 sequences" in error("ce", target=name)


def test_a_single_answer_is_not_asked_for_at_every_step() -> None:
    with pytest.raises(UsageError) as caught:
        built("mse")(outputs(2, 1))
    assert str(caught.value) == (
        "--loss mse asks at every step, the model gives one answer a sequence; give one target a sequence, "
        "--target FILE of shape (2,)"
    )


@pytest.mark.parametrize(("rows", "length"), [(2, 4), (5, 4), (2, 3)])
def test_a_value_for_each_sequence_and_step_is_that(tmp_path: Path, rows: int, length: int) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 3)))
    asked = np.arange(rows * 4.0).reshape(rows, 4)
    spec = RunSpec(loss="mse", input=str(tmp_path / "x.npy"), target=target(tmp_path, asked), length=length)
    output = outputs(2, length, 1).detach()
    value = make_loss(spec, make_batch(spec, seed=0), seed=0)(output)
    wanted = torch.from_numpy(asked)[:2, :length, None]
    assert float(value) == pytest.approx(float((output - wanted).square().sum()), rel=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3, 10])
@pytest.mark.parametrize("once", [False, True])
def test_classes_are_read_from_the_logits_that_a_module_has(tmp_path: Path, width: int, once: bool) -> None:
    classes = 3 if width >= 3 else 2
    asked = (np.arange(2 * 4).reshape(2, 4) + 2) % classes
    name = target(tmp_path, asked[:, -1] if once else asked)
    spec = RunSpec(loss="ce", target=name, length=4, batch=2)
    batch = make_batch(spec, seed=0)
    output = outputs(2, 4, width).detach()
    own, states = (make_loss(spec, replace(batch, has_head=head), seed=0) for head in (True, False))
    logits = torch.cat((torch.zeros_like(output), output), -1) if width == 1 else output
    steps = slice(-1, None) if once else slice(None)
    wanted = -logits[:, steps].log_softmax(-1).gather(-1, torch.from_numpy(asked)[:, steps, None]).sum()
    assert float(own(output)) == pytest.approx(float(wanted), rel=1e-12)
    read = output[:, steps] @ readout(0, width, classes)
    seeded = -read.log_softmax(-1).gather(-1, torch.from_numpy(asked)[:, steps, None]).sum()
    assert float(states(output)) == pytest.approx(float(seeded), rel=1e-12)
    assert "the model's own outputs" in own.notes[0]
    assert "seeded readout" in states.notes[0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_loss_is_a_scalar_of_the_output_dtype_and_repeats(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    output = outputs(1, 4, 6, dtype=dtype)
    value = built(name, text=TEXT)(output)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    assert torch.equal(value, built(name, text=TEXT)(output))
    assert not torch.equal(value, built(name, text=TEXT, seed=1)(output)) or name == "mse"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_an_output_that_is_no_tensor(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        built(name, text=TEXT)((outputs(1, 4, 6),))
    remedy = "write your own: --loss path/to/file.py:function"
    assert str(caught.value) == f"--loss {name} needs a tensor, the model returned a tuple; {remedy}"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("final", torch.ones(1, 4, 2, 2)),
        ("final", torch.ones(1, 4, 2, dtype=torch.int64)),
        ("final", torch.ones(1, 4, 2, dtype=torch.complex64)),
        ("every", torch.ones(1, 4, 2, 2)),
        ("ce", torch.ones(1, 5, 2)),
        ("mse", torch.ones(2, 4, 2)),
    ],
)
def test_an_output_of_the_wrong_shape_or_type(name: str, output: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=f"^--loss {name} needs .*; write your own: --loss path/to/file.py:function$"):
        built(name, text=TEXT)(output)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "2024-01-01,1.5",
            "column 't' is '2024-01-01', not a number; correct it, or leave the column out of a file for",
        ),
        ("0,nan", "and 3 more NaN or Inf); fill or remove it, or choose a shorter --length"),
    ],
)
def test_no_columns_are_chosen_of_a_target(tmp_path: Path, rows: str, said: str) -> None:
    """`--columns` is of the input: it was advised for a target too, and changed nothing."""
    (tmp_path / "t.csv").write_text("t,y\n" + f"{rows}\n" * 8)
    told = error("mse", target=str(tmp_path / "t.csv"))
    assert said in told
    assert "--columns" not in told


def test_an_unknown_loss_and_a_target_that_is_not_used() -> None:
    assert error("finale").startswith(
        "unknown loss 'finale'; did you mean 'final'? (one of: final, every, ce, mse, path"
    )
    assert built("every", target="t.npy").notes == ("--target is not used by --loss every",)


CODE = """
import neighbour
print("loaded")

def good(output):
    print("called")
    return neighbour.scale * output[:, 1].sum()

def vector(output):
    return output

def number(output):
    return output.sum().item()

def cut(output):
    return output.detach().sum()

def broken(output):
    raise ValueError("no\\n\\x1b[31m good")

def leaves(output):
    raise SystemExit(3)

constant = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("scale = 2.0\n")
    path = tmp_path / "my_losses.py"
    path.write_text(CODE)
    return str(path)


def test_a_function_of_the_users_own(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    path_before = list(sys.path)
    loss = built(f"{code}:good")
    assert sys.path == path_before
    assert gradient(loss, outputs(1, 3, 2)).tolist() == [[[0, 0], [2, 2], [0, 0]]]
    assert not loss.final_only
    assert loss.name == f"{code}:good"
    # stdout belongs to the report
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "loaded\ncalled\n")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "vector",
            "returned a tensor (1, 2, 2) of torch.float64, one real number as a tensor is needed; end with .sum()",
        ),
        ("number", "returned float, one real number as a tensor is needed; end with .sum()"),
        ("cut", "returned a number cut off from the output; leave out .detach(), .item() and .numpy()"),
        ("broken", r"failed: ValueError: no\n\x1b[31m good; run it by itself or pass --debug"),
        ("leaves", "failed: SystemExit: 3; run it by itself or pass --debug"),
    ],
)
def test_a_function_that_fails(code: str, function: str, message: str) -> None:
    loss = built(f"{code}:{function}")
    with pytest.raises(UsageError) as caught:
        loss(outputs(1, 2, 2))
    assert str(caught.value) == f"--loss '{code}:{function}' {message}"


def test_a_function_that_cannot_be_loaded(code: str, tmp_path: Path) -> None:
    assert error(code) == f"--loss '{code}' names no function; write path/to/file.py:function"
    assert error("no.py:fn") == "--loss 'no.py' does not exist; check the path"
    assert error(f"{code}:goood").startswith(f"--loss '{code}:goood': unknown function 'goood'; did you mean 'good'?")
    assert error(f"{code}:constant") == f"--loss '{code}:constant' is a int, not a function; name a function"
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    reason = "ModuleNotFoundError: No module named 'no_such_module'; run it by itself or pass --debug"
    assert error(f"{broken}:fn") == f"--loss '{broken}:fn': importing the file failed: {reason}"
    broken.write_text("def fn(:\n")
    assert "failed: SyntaxError" in error(f"{broken}:fn")


def test_losses_are_shared_by_models_of_one_output_size() -> None:
    one, other = built("every"), built("every", input_size=3)
    assert torch.equal(one(outputs(2, 4, 6)), other(outputs(2, 4, 6)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["layer", "module"])
def test_a_loss_may_write_into_what_it_is_given(wrapped: bool) -> None:
    layer = torch.nn.GRU(2, 3, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def masked(y):
        y[:, 5:] = 0
        return y.square().sum()

    model = torch.nn.Sequential(layer, Outputs()) if wrapped else layer
    found = analyze(model, x, loss=masked).models[0]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(leaf)[0][:, :5].square().sum(), leaf)
    norms = gradient.norm(dim=-1)[:, :5].log10().mean(0).tolist()
    assert found.series.values["log10_grad_input"][:5] == pytest.approx(norms, abs=1e-9)
    assert len(found.series.values["log10_influence"]) == 5


class Outputs(torch.nn.Module):
    def forward(self, returned):
        return returned[0]
