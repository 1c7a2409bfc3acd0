"""Every private name of torch means what it is used for, and stands in one file alone.

A check that fails here shows its docstring: what to change, and where.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope import torch_private as private

SOURCE = Path(private.__file__).parent
ADAPTER = Path(private.__file__)
OF_PYTHON = {"_at_fork_reinit", "_exit", "_getframe", "_replace"}
"""Names of Python's own library that begin with an underscore."""


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


A, B, C = leaf(3, 4), leaf(4, 5), leaf(3, 5)
SIZES = {"self_sym_sizes": (3, 4)}
OPERATIONS = {
    "AddBackward0": (lambda: torch.add(A, A, alpha=3), {"alpha": 3}),
    "AddmmBackward0": (lambda: torch.addmm(C, A, B, beta=2, alpha=3), {"alpha": 3, "beta": 2, "mat1": A, "mat2": B}),
    "CatBackward0": (lambda: torch.cat([A, A], -1), {"dim": -1}),
    "MmBackward0": (lambda: A @ B, {"self": A, "mat2": B}),
    "MulBackward0": (lambda: A * (2 * A), {"self": A, "other": 2 * A}),
    "SelectBackward0": (lambda: A.select(-1, -3), {**SIZES, "dim": -1, "index": -3}),
    "SigmoidBackward0": (lambda: A.sigmoid(), {"result": A.sigmoid()}),
    "SliceBackward0": (lambda: A[:, 1:3], {**SIZES, "dim": 1, "start": 1, "end": 3, "step": 1}),
    "SplitBackward0": (lambda: A.split(2, 1)[0], {"dim": 1, "split_size": 2}),
    "StackBackward0": (lambda: torch.stack([A, A], -1), {"dim": -1}),
    "SubBackward0": (lambda: torch.sub(A, A, alpha=3), {"alpha": 3}),
    "UnbindBackward0": (lambda: A.unbind(1)[0], {"dim": 1}),
}


@cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def is_same(kept, wanted) -> bool:
    """Numbers may be kept with 2**64 added where they are negative, axes from the front."""
    if isinstance(wanted, torch.Tensor):
        return torch.equal(kept, wanted)
    if isinstance(wanted, tuple):
        return tuple(kept) == wanted
    return kept == wanted or (wanted < 0 and kept in (wanted + 2**64, A.ndim + wanted))


@pytest.mark.parametrize("operation", private.SAVED)
def test_an_operation_keeps_its_arguments(operation):
    make, wanted = OPERATIONS[operation]
    node = make().grad_fn
    here = f"torch {torch.__version__}; see {operation} in gradscope.torch_private.SAVED and whatever reads its"
    assert node.name() == operation, f"it is {node.name()} now: rename it in gradscope.forward; {here}"
    assert set(private.SAVED[operation]) == set(wanted)
    for name, value in wanted.items():
        assert name in private.saved_names(node), f"it keeps {private.saved_names(node)}; {here} {name}"
        assert is_same(private.saved(node, name), value), f"{name} is {private.saved(node, name)}; {here} {name}"
    assert private.saved(node, "nothing", 1) == 1


def test_what_is_read_of_operations_is_what_is_tried():
    read = {
        node.args[1].value
        for path in SOURCE.rglob("*.py")
        if "saved(" in (source := path.read_text("utf-8"))
        for node in nodes(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "saved"
        if isinstance(node.args[1], ast.Constant)
    }
    assert read == {name for names in private.SAVED.values() for name in names}


def reads_in_order():
    """`next_functions` no longer follows the arguments: `sources` must bring them into that order."""
    b, c = A * 1, C * 1
    read = private.sources((b @ B - c).grad_fn)
    assert [node.name() for node, _ in read] == ["MmBackward0", "MulBackward0"]
    assert [private.leaf_of(node) is B for node, _ in private.sources(read[0][0])] == [False, True]
    assert private.sources((A.unbind(0)[2] * 2).grad_fn)[0][1] == 2


def leaves_are_nodes():
    """The node of a leaf keeps it elsewhere than in `variable`: change `leaf_of` and whatever reads `.variable`."""
    node = private.sources((A * 2).grad_fn)[0][0]
    assert private.leaf_of(node) is A
    assert node.variable is A
    assert private.leaf_of((A * 2).grad_fn) is None


def results_have_forms():
    """Forms of results are kept elsewhere than in `_input_metadata`: change `results_of`."""
    forms = private.results_of(A.double().split(3, 1)[0].grad_fn)
    assert [(tuple(form.shape), form.dtype) for form in forms] == [((3, 3), torch.float64), ((3, 1), torch.float64)]


def operations_are_numbered():
    """`_sequence_nr` does not grow with every operation any more: `order_of` needs another order of execution."""
    first = A * 2
    second = C * 2
    assert private.order_of(first.grad_fn) < private.order_of(second.grad_fn) < private.order_of((first @ B).grad_fn)


def writing_is_counted():
    """`_version` does not count what is written through views: `write_count` is wrong, buffers are read stale."""
    buffer = torch.zeros(3, 4)
    before = private.write_count(buffer)
    buffer[1].fill_(1)
    assert private.write_count(buffer) > before
    assert private.write_count(torch.zeros(1)) == private.write_count(torch.zeros(1).sum())


def transforms_are_seen():
    """torch.func wraps tensors otherwise: change `is_transformed` and `untransformed`."""
    seen = []

    def look(row):
        seen.append((private.is_transformed(), row.shape, private.untransformed(row).shape))
        return row

    torch.func.vmap(look)(A)
    assert seen == [(True, (4,), (3, 4))]
    assert not private.is_transformed()


def tracing_is_seen():
    """torch.jit.trace cannot be told from a plain call: change `is_jit_traced`."""
    seen = []

    def look(x):
        seen.append(private.is_jit_traced())
        return x * 2

    torch.jit.trace(look, torch.ones(2), check_trace=False)
    assert seen == [True]
    assert not private.is_jit_traced()


def passes_are_numbered():
    """Backward passes have no number of their own any more: change `backward_number`."""
    numbers = []
    x = A * 1
    x.register_hook(lambda _: numbers.append(private.backward_number()))
    for _ in range(2):
        x.sum().backward(retain_graph=True)
    assert numbers[0] != numbers[1]
    assert min(numbers) >= 0
    assert private.backward_number() == -1
    A.grad = None


def views_are_told_from_tensors_of_their_own():
    """A view no longer knows that it is one: change `is_view`."""
    whole = torch.zeros(3, 4)
    assert [private.is_view(t) for t in (whole, whole[:, 1], whole.T, whole[:, 1].clone())] == [
        False,
        True,
        True,
        False,
    ]


def passes_have_an_end():
    """A callback of the engine comes before the gradients are there: `after_backward` needs another way."""
    x, seen = leaf(3), []
    y = x * 2
    y.register_hook(lambda _: private.after_backward(lambda: seen.append(x.grad is not None)))
    y.sum().backward()
    assert seen == [True]


def compiling_is_kept_off():
    """torch.compile takes no code off its list, or wraps modules otherwise: `leave_to_python`, `compiled_from`."""
    compiled = []

    def left(x):
        return x + 1

    def backend(module, _):
        compiled.append(module)
        return module.forward

    private.leave_to_python(left.__code__)
    assert torch.compile(left, backend=backend)(torch.zeros(2)).sum() == 2
    assert compiled == []
    module = nn.Linear(2, 2)
    assert private.compiled_from(torch.compile(module, backend=backend)) is module
    assert private.compiled_from(module) is module
    assert private.is_compiler_loaded()


def the_default_device_is_told():
    """The context of the default device is kept elsewhere: change `default_device`."""
    assert private.default_device() is None
    torch.set_default_device("meta")
    try:
        assert private.default_device() == torch.device("meta")
    finally:
        torch.set_default_device(None)


def safe_globals_are_listed():
    """torch.load(weights_only=True) keeps its list elsewhere: change `weights_only_globals`."""
    assert {"torch._utils._rebuild_tensor_v2", "collections.OrderedDict"} <= private.weights_only_globals()


def modules_keep_their_parts():
    """nn.Module keeps buffers, submodules or hooks elsewhere: `buffers_of`, `SUBMODULES`, `forget_hooks`."""
    module = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False))
    module.register_buffer("empty", None)
    module.register_buffer("full", torch.zeros(1))
    private.buffers_of(module)["full"] = torch.ones(1)
    assert list(private.buffers_of(module)) == ["empty", "full"]
    assert module.full == 1
    assert list(vars(module)[private.SUBMODULES]) == ["0"]
    calls = []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    module.register_full_backward_hook(lambda *_: calls.append("backward"))
    private.forget_hooks(module)
    module(leaf(3, 2)).sum().backward()
    assert calls == []


def tensors_of_modules_change():
    """`_apply` does not reach parameters and buffers, or makes another module: change `apply_to_tensors`."""
    module = nn.BatchNorm1d(2)
    assert private.apply_to_tensors(module, lambda value: value + 1) is module
    assert module.weight.tolist() == [2, 2]
    assert module.running_var.tolist() == [2, 2]


def weights_have_names():
    """Recurrences name their weights otherwise: change `weight_names`."""
    layer = nn.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=1, bias=False)
    kinds = [f"{kind}_l{level}" for level in range(2) for kind in ("weight_ih", "weight_hh", "weight_hr")]
    wanted = [[name + end for name in kinds[at : at + 3]] for at in (0, 3) for end in ("", "_reverse")]
    assert private.weight_names(layer) == wanted
    assert {name for names in wanted for name in names} == set(dict(layer.named_parameters()))


def structures_are_walked():
    """torch.utils._pytree has moved: torch.utils.pytree may hold the four functions by now."""
    raw = {"a": (A, [1, None]), "b": "text"}
    values, form = private.tree_flatten(raw)
    assert private.tree_unflatten(values, form) == raw
    assert [value for value in private.tree_leaves(raw) if isinstance(value, torch.Tensor)] == [A]
    assert private.tree_map_only(int, lambda number: number + 1, raw)["a"][1] == [2, None]


CHECKS = (
    views_are_told_from_tensors_of_their_own,
    reads_in_order,
    leaves_are_nodes,
    results_have_forms,
    operations_are_numbered,
    writing_is_counted,
    transforms_are_seen,
    tracing_is_seen,
    passes_are_numbered,
    passes_have_an_end,
    compiling_is_kept_off,
    the_default_device_is_told,
    safe_globals_are_listed,
    modules_keep_their_parts,
    tensors_of_modules_change,
    weights_have_names,
    structures_are_walked,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_private_name_means_what_it_is_used_for(check):
    try:
        check()
    except Exception as error:
        raise AssertionError(f"torch {torch.__version__}: {check.__doc__}") from error


# Private names in other files.


def taken(source: str) -> Iterator[str]:
    """Names that the source takes from elsewhere: attributes, those of `getattr`, parts of imports of torch."""
    for node in nodes(source):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            yield from (text.value for text in node.args[1:2] if isinstance(text, ast.Constant))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [*modules, *(name.name for name in node.names)]
            if any(name.partition(".")[0] == "torch" for name in names):
                yield from (part for name in names for part in name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"torch\.(?:\w+\.)*(_\w+)", node.value)


def texts(source: str) -> set[str]:
    constants = (node.value for node in nodes(source) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def made(source: str) -> Iterator[str]:
    """Names with an underscore that the source gives: functions, classes, attributes of objects."""
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def privates(source: str, own: set[str]) -> set[str]:
    """Private names of torch that a source uses, where the names in `own` are ours."""
    adapter = ADAPTER.read_text("utf-8")
    known = {name for name in (*taken(adapter), *texts(adapter)) if is_private(name)} | {"next_functions"}
    found = set(taken(source))
    strange = {name for name in found if is_private(name)} - own - OF_PYTHON
    said = {name for name in texts(source) if name.startswith("_saved_")}
    return strange | said | ((found | texts(source)) & known - set(made(source)))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch._dynamo", {"_dynamo"}),
        ("from torch.utils import _pytree as pytree", {"_pytree"}),
        ("from torch._C import Node", {"_C"}),
        ("number = node._saved_dim", {"_saved_dim"}),
        ("number = getattr(node, '_saved_alpha', 1)", {"_saved_alpha"}),
        ("found = module._something_new", {"_something_new"}),
        ("found = getattr(module, '_parameters')", {"_parameters"}),
        ("read = node.next_functions", {"next_functions"}),
        ("call = 'torch._C._functorch'", {"_functorch"}),
        ("part = name == '_modules'", {"_modules"}),
        ("self._own = module.weight", set()),
        ("import torch\nfrom gradscope import __version__", set()),
    ],
)
def test_a_private_name_is_found(source, found):
    assert privates(source, set(made(source))) == found


def test_private_names_of_torch_stand_in_one_file():
    sources = {path: path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path != ADAPTER}
    own = {name for source in sources.values() for name in made(source)}
    used = {str(path.relative_to(SOURCE)): privates(source, own) for path, source in sources.items()}
    assert {path: names for path, names in used.items() if names} == {}
