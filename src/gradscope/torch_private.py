"""Private names of torch: the only file that uses them, each with the reason why no public one serves.

Seen on torch 2.10.0 and 2.13.0. `tests/test_torch_private.py` holds every name to what it must mean, says what to
change where a version of torch means something else by it, and finds private names in any other file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils import _pytree

Module = TypeVar("Module", bound=nn.Module)

# Nested lists, tuples, dicts and registered classes; torch.utils.pytree is new and has no `tree_map_only`.
tree_flatten = _pytree.tree_flatten
tree_leaves = _pytree.tree_leaves
tree_map_only = _pytree.tree_map_only
tree_unflatten = _pytree.tree_unflatten

SUBMODULES = "_modules"
"""The attribute in which a module keeps its submodules, in `vars(module)`."""

SAVED: dict[str, tuple[str, ...]] = {
    "AddBackward0": ("alpha",),
    "AddmmBackward0": ("alpha", "beta", "mat1", "mat2"),
    "CatBackward0": ("dim",),
    "MmBackward0": ("self", "mat2"),
    "MulBackward0": ("self", "other"),
    "SelectBackward0": ("self_sym_sizes", "dim", "index"),
    "SigmoidBackward0": ("result",),
    "SliceBackward0": ("self_sym_sizes", "dim", "start", "end", "step"),
    "SplitBackward0": ("dim", "split_size"),
    "StackBackward0": ("dim",),
    "SubBackward0": ("alpha",),
    "UnbindBackward0": ("dim",),
}
"""By operation of the autograd graph, what is read of the numbers and tensors that it keeps for its gradient."""
_KEPT = "_saved_"


def saved(node: Any, name: str, *otherwise: Any) -> Any:
    """What an operation keeps for its gradient, such as `dim` or `mat2`: nothing public tells its arguments.

    Raises:
        AttributeError: it keeps nothing of that name, and nothing is given to return then.
        RuntimeError: the tensor was written over since, or freed.
    """
    return getattr(node, _KEPT + name, *otherwise)


def saved_names(node: Any) -> tuple[str, ...]:
    """Names of all that an operation keeps, for `saved`."""
    return tuple(name.removeprefix(_KEPT) for name in dir(node) if name.startswith(_KEPT))


def sources(node: Any) -> Sequence[tuple[Any, int]]:
    """(operation, number of its result) of everything that an operation read, in the order of its arguments."""
    found: Sequence[tuple[Any, int]] = node.next_functions
    return found


def leaf_of(node: Any) -> Tensor | None:
    """The leaf tensor whose gradient a node adds up; None where it is an operation."""
    return getattr(node, "variable", None)


def results_of(node: Any) -> Sequence[Any]:
    """Shape, dtype and device of every result of an operation; the results themselves may be gone."""
    found: Sequence[Any] = node._input_metadata
    return found


def order_of(node: Any) -> int:
    """Grows from operation to operation in the order in which they ran; of a thread."""
    return int(node._sequence_nr())


def write_count(tensor: Tensor) -> int:
    """How often the tensor's memory was written to, through any view: writing in place leaves no other trace."""
    return tensor._version


def is_view(tensor: Tensor) -> bool:
    """Whether the tensor shows a part of another's memory: nothing public tells a view from a tensor of its own."""
    return tensor._base is not None


def is_transformed() -> bool:
    """Whether vmap, grad or another transform of torch.func is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def untransformed(value: Tensor) -> Tensor:
    """What a transform of torch.func works on, of the tensor that the code sees."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value


def is_jit_traced() -> bool:
    """Whether torch.jit.trace records: `torch.jit.is_tracing` answers False inside of scripted functions."""
    return torch._C._get_tracing_state() is not None


def backward_number() -> int:
    """The number of the backward pass that is running, -1 outside of one; two passes never share it."""
    return int(torch._C._current_graph_task_id())


def after_backward(callback: Callable[[], Any]) -> None:
    """Call `callback` when the running backward pass has ended; hooks of tensors are all called before that."""
    Variable._execution_engine.queue_callback(callback)


def leave_to_python(code: CodeType) -> None:
    """Have torch.compile run a function as it is: `torch.compiler.disable` wraps it, which breaks weak references."""
    with suppress(AttributeError):
        dynamo = torch._C._dynamo.eval_frame
        skip = dynamo._FrameAction.SKIP
        dynamo.set_code_exec_strategy(code, dynamo._FrameExecStrategy(skip, skip))


def is_compiler_loaded() -> bool:
    """Whether torch.compile may have been used: to import it takes seconds, and setting its stance does that."""
    return "torch._dynamo" in sys.modules


def compiled_from(module: Any) -> Any:
    """The module that torch.compile wrapped; any other as it is."""
    return getattr(module, "_orig_mod", module)


def default_device() -> torch.device | None:
    """What torch.set_default_device was told, None where it was not: `torch.get_default_device` says cpu for both."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def weights_only_globals() -> set[str]:
    """Names that torch.load(weights_only=True) admits by itself: the public list holds only what users added."""
    return set(torch._weights_only_unpickler._get_allowed_globals())


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own buffers, to be written to: `named_buffers` leaves out those that are None."""
    return module._buffers


def apply_to_tensors(module: Module, change: Callable[[Tensor], Tensor]) -> Module:
    """The module itself with `change` made to every parameter and buffer, as `.to` does it; `.apply` is for modules."""
    apply: Callable[[Callable[[Tensor], Tensor]], Module] = module._apply
    return apply(change)


def forget_hooks(module: nn.Module) -> None:
    """Remove all hooks of a module, whoever holds their handles."""
    module._forward_hooks.clear()
    module._forward_pre_hooks.clear()
    module._backward_hooks.clear()


def weight_names(layer: nn.RNNBase) -> list[list[str]]:
    """Names of the weights by layer and direction; `all_weights` gives the tensors without them."""
    return layer._all_weights
