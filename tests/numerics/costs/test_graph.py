"""Operations counted on the autograd graph: by hand on small graphs, by law on the families."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradscope.models.family import Model, family_model
from gradscope.models.stack import Recurrent
from gradscope.models.user_step import CustomCell
from gradscope.models.whole_module import WholeModule
from gradscope.numerics.costs import order, path_growth
from gradscope.numerics.trace import Unavailable


def make(family: str, inputs: int = 3, **options: str) -> Model:
    settled = family_model(family, {"hidden": "4", **options}, family, {})
    return settled.build(input_size=inputs, seed=0, dtype=torch.float64)


def custom(step, inputs: int) -> Recurrent:
    return Recurrent("cell", [CustomCell("cell", step, torch.zeros(2, dtype=torch.float64), inputs)])


def test_a_cell_of_two_operations_by_hand() -> None:
    # s_t = tanh(s_{t-1} + x_t): one addition and one tanh a step, so 2 T operations from x_1 to y_T.
    path, steps = path_growth(custom(lambda x, s: torch.tanh(s + x), 2), 5)
    assert (path.length, path.count, path.order) == ((5, 10), (10, 20), "O(n)")
    assert steps.count == (10, 20)


def test_shortest_and_longest_differ_where_a_cell_has_a_shortcut() -> None:
    # s_t = s_{t-1} + sin(cos(s_{t-1} + x_t)): x_1 passes 4 operations; afterwards 1 at least and 4 at most.
    path, steps = path_growth(custom(lambda x, s: s + torch.sin(torch.cos(s + x)), 2), 5)
    assert path.count == (4 + 4, 4 + 9)
    assert steps.count == (20, 40)


def test_without_input_paths_start_at_the_first_state() -> None:
    path, steps = path_growth(custom(lambda x, s: torch.sin(s) * 2, 0), 6)
    assert (path.count, steps.count) == ((12, 24), (12, 24))


def test_paths_to_weights_do_not_count() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def step(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return s + x * weight.sin().cos().sin().cos().sin().cos()

    path, steps = path_growth(custom(step, 2), 3)
    # x_1 is multiplied and then added three times; the six operations on the weight lead to no input.
    assert (path.count, steps.count) == ((4, 7), (4, 7))


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm", "lru"])
@pytest.mark.parametrize("layers", ["1", "2"])
def test_recurrences_are_of_order_n(family: str, layers: str) -> None:
    path, steps = path_growth(make(family, layers=layers), 40)
    assert (path.order, steps.order) == ("O(n)", "O(n)")
    assert path.length == steps.length == (40, 80)
    assert all(short <= long for short, long in zip(path.count, steps.count, strict=True))


@pytest.mark.parametrize(("family", "layers"), [("attention", "1"), ("transformer", "1"), ("transformer", "3")])
def test_attention_is_of_order_one(family: str, layers: str) -> None:
    path, steps = path_growth(make(family, layers=layers), 20)
    assert (path.order, steps.order) == ("O(1)", "O(1)")
    assert path.count[0] < 60


def test_a_residual_stream_is_no_shortcut_between_steps() -> None:
    # x_1 reaches y_T through the attention of some block, never along the residual sums of its own step.
    attention, _ = path_growth(make("attention"), 8)
    transformer, _ = path_growth(make("transformer"), 8)
    assert transformer.count[0] > attention.count[0]


def test_long_sequences_are_counted_at_the_limit_and_say_so() -> None:
    path, steps = path_growth(make("rnn"), 5000, longest=30)
    assert path.length == steps.length == (30, 60)
    assert path_growth(make("attention"), 5000, longest_direct=10)[0].length == (10, 20)
    assert path_growth(make("transformer", layers="4"), 5000, longest_direct=10)[0].length == (5, 10)


def test_a_graph_as_deep_as_the_limit_needs_no_recursion() -> None:
    path, _ = path_growth(make("rnn"), 10**6)
    assert path.length == (1000, 2000)
    assert path.order == "O(n)"


def test_counting_leaves_the_model_as_it_was() -> None:
    model = make("lstm")
    path_growth(model, 4)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters().values())


def test_a_detached_step_leaves_no_path() -> None:
    with pytest.raises(Unavailable, match="does not depend on the first input"):
        path_growth(custom(lambda x, s: s.detach() + x, 2), 5)


def test_a_module_that_takes_whole_sequences_has_no_steps_to_count() -> None:
    with pytest.raises(Unavailable, match="whole sequence at once"):
        path_growth(WholeModule("module", nn.Linear(3, 3), 3, kind="module"), 5)


def test_attention_without_input_has_no_path() -> None:
    with pytest.raises(Unavailable, match="no input"):
        path_growth(make("attention", inputs=0), 5)


@pytest.mark.parametrize(
    ("count", "expected"),
    [((24, 24), "O(1)"), ((100, 200), "O(n)"), ((100, 181), "O(n)"), ((100, 219), "O(n)"), ((9, 13), "unclear")],
)
def test_order(count: tuple[int, int], expected: str) -> None:
    assert order(count) == expected
