"""Which layers are watched, and the hooks on one of them: what it takes in, what the loss sends back.

Hooks on one fused layer: what it takes in, and what the loss sends back, kept for updates that are measured.
Every hook of the Monitor is a `Hook`: it only looks, lets no error out, and is left behind by what copies or saves the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradscope.errors import UsageError
from gradscope.monitor.layer_signal import KERNELS, CapturedPass, differs
from gradscope.registry import unknown
from gradscope.text import safe_text
from gradscope.torch_private import backward_number, compiled_from, is_jit_traced, is_transformed, leave_to_python


def plain_model(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile and data parallelism wrap around it."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"Monitor watches an nn.Module; it was given a {safe_text(type(model).__name__)}")
    inside = compiled_from(model)
    if inside is model and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        inside = model.module
    return plain_model(inside) if inside is not model and isinstance(inside, nn.Module) else model


def watched(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.RNNBase]:
    """Recurrent layers of torch.nn by their path; all of them, or those that are named.

    Raises:
        UsageError: a name that is no such layer.
    """
    known = {path or type(part).__name__: part for path, part in model.named_modules() if isinstance(part, nn.RNNBase)}
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise UsageError(f"{unknown('layer', name, known or ['none: the model has no nn.RNN, GRU or LSTM'])}")
    return {name: known[name] for name in names}


SEQUENCES = 8
"""Sequences of a batch that a signal is measured on."""
MOST_CALLS = 4096
"""Calls of a layer within one update that are kept."""
STEPWISE = "it is called with one step at a time, and no gradient passes from one call to the next"


class Hook:
    """A hook of one Monitor: it returns nothing, and what fails in it is handed to the Monitor instead of raised.

    A copy or a pickle of the model gets a hook that does nothing, readable where gradscope is not installed.
    """

    __torch_unserializable__ = True
    """Says to torch that a tensor is sent to another process without it, on purpose."""

    def __init__(self, look: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        self._look, self._failed = look, failed

    def __call__(self, *given: Any) -> None:
        """Look at what torch hands to such a hook."""
        if torch.compiler.is_compiling():
            return
        try:
            self._look(*given)
        except Exception as error:  # whatever fails here, the training goes on
            with suppress(Exception):
                self._failed(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return nullcontext().__exit__

    def __getattr__(self, name: str) -> Any:
        # torch.jit.script compiles the hooks of a module, by name.
        what = "torch.jit.script cannot compile a layer that a Monitor watches: call its close() first"
        raise AttributeError(what if name == "__name__" else name)


# Where torch.compile leaves a layer to Python it would compile the frames of its hooks, one by one.
leave_to_python(Hook.__call__.__code__)


@dataclass
class Call:
    """One forward pass of a layer over all its sequences: which of them the loss reads is known after a backward pass.

    It is held by the hooks in its own graph, and goes with that where no gradient ever comes back.
    """

    number: int
    x: Tensor | None
    """(sequences, T, features); a copy once a gradient came back, None once it is of no more use."""
    lengths: Tensor
    """Steps of each sequence, (sequences)."""
    state: tuple[Tensor, ...]
    """The state it was handed, h or (h, c), each (layers, sequences, size); empty for none."""
    carried: bool
    """Whether a gradient passes on through that state."""
    ends: tuple[Tensor, ...]
    """The state it ended with."""
    sent: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    """What came back, by backward pass: dL/dy at 0, dL/dh_T at 1, dL/dc_T at 2."""

    def hear(self, task: int, place: int, gradient: Tensor, worth: Callable[[int], int]) -> None:
        """A backward pass sends a gradient back."""
        if not self.sent and self.x is not None:
            # Until now it is what the forward pass took in, or autograd would have refused to go back.
            self.x = self.x.clone()
        if task not in self.sent:
            self.fold(worth)
        _add(self.sent.setdefault(task, {}), {place: gradient})

    def fold(self, worth: Callable[[int], int]) -> dict[int, dict[int, Tensor]]:
        """What came back by the worth of its backward pass: those that are worth the same are added up."""
        newest: dict[int, int] = {}
        for task in sorted(self.sent):
            value = worth(task)
            if value in newest:
                _add(self.sent[task], self.sent.pop(newest[value]))
            newest[value] = task
        return {value: self.sent[task] for value, task in newest.items()}

    def read(self, sent: dict[int, Tensor]) -> Tensor:
        """The sequences whose output the loss reads at the newest step at which it reads any, (sequences).

        Of those the longest: for others that step is another in the order of a packed batch.
        """
        assert self.x is not None
        read = torch.zeros(self.x.shape[:2], dtype=torch.bool, device=self.x.device)
        for place, gradient in sent.items():
            if place:
                read[torch.arange(len(read), device=read.device), self.lengths - 1] |= (gradient != 0).any(2).any(0)
            else:
                read |= (gradient != 0).any(2)
        steps = read.any(0).nonzero()
        rows = read[:, steps[-1, 0]] if len(steps) else torch.ones_like(read[:, 0])
        return rows & (self.lengths == self.lengths[rows].max())

    def finite(self, sent: dict[int, Tensor]) -> Tensor:
        """Whether all that came back is finite, (sequences)."""
        found = [gradient.isfinite().all(2).all(0 if place else 1) for place, gradient in sent.items()]
        return torch.stack(found).all(0)


class LayerRecorder:
    """Listens to one layer while `wanted` says so."""

    def __init__(
        self,
        name: str,
        layer: nn.RNNBase,
        wanted: Callable[[LayerRecorder], bool],
        failed: Callable[[Exception], None],
        called: Callable[[LayerRecorder], None] = lambda recorder: None,
        worth: Callable[[int], int] = lambda task: 0,
    ) -> None:
        """Hook the layer.

        Args:
            name: its path in the model.
            layer: of torch.nn.
            wanted: whether what it takes in is kept.
            failed: told of what goes wrong in a hook.
            called: told of every forward pass with a graph, before `wanted` is asked.
            worth: how much a backward pass counts, by its number in torch; those that count most are measured.
        """
        self.name, self.layer, self.reason = name, layer, ""
        self.refused = ""
        """Why some call was not kept."""
        self.ran = False
        """Whether the layer ran with a graph since the last `settle`."""
        self.silence = "it never ran with gradients switched on"
        """Why nothing was heard so far."""
        self._wanted, self._failed, self._called, self._worth = wanted, failed, called, worth
        self._is_strange = type(layer).forward is not getattr(nn, layer.mode.partition("_")[0], nn.RNNBase).forward
        """Whether it has a forward pass of its own, which was not yet held against that of torch.nn."""
        self._count = 0
        self._calls: dict[int, Call] = {}
        """Those of this update that got a gradient back, by number."""
        self._kept: tuple[int, CapturedPass] | None = None
        self._handle = layer.register_forward_hook(Hook(self._look, failed), with_kwargs=True)

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def settle(self) -> None:
        """An update is done: what it heard is kept for a look at the end, and another begins."""
        self._kept = self._newest() or self._kept
        for call in self._calls.values():
            # Whoever holds on to the loss holds the call.
            call.x, call.sent = None, {}
        self._calls, self.ran = {}, False

    def heard(self, scale: float, *, before: bool = False) -> CapturedPass | None:
        """What the layer took in and got back in this update; None where that gives no lags (see `reason`).

        Args:
            scale: the loss scale that the cotangents still carry.
            before: where this update has nothing, that of the last one that had.
        """
        found = self._newest()
        # After the last update there may be passes that train nothing, as a saliency is.
        if before and self._kept is not None and (found is None or found[0] < self._kept[0]):
            found = self._kept
        return None if found is None else replace(found[1], scale=scale)

    def _newest(self) -> tuple[int, CapturedPass] | None:
        """Of several calls the last one that got a gradient back, joined with those whose state it was handed.

        A sequence that begins anew on the way, as an episode does, is left out. Before it, what its pass is worth.
        """
        folded = {number: call.fold(self._worth) for number, call in sorted(self._calls.items())}
        best = max((max(sent) for sent in folded.values()), default=0)
        known = [(self._calls[number], sent[best]) for number, sent in folded.items() if best in sent]
        if not known:
            return None
        # A call whose part of the loss is weighted by zero for now says nothing of the gradient.
        place = next((place for place in reversed(range(len(known))) if _moves(known[place][1])), len(known) - 1)
        chain = [known[place]]
        rows = known[place][0].read(known[place][1])
        for call, sent in reversed(known[:place]):
            if not chain[-1][0].carried:
                break
            more = rows & _goes_on(call, chain[-1][0])
            if bool(more.any()):
                chain.append((call, sent))
                rows = more
        # A value that is not finite is among what is measured, wherever it came in.
        order = known[place][0].finite(known[place][1])[rows].sort(stable=True).indices
        found = self._joined(chain[::-1], rows.nonzero().flatten()[order[:SEQUENCES]])
        return None if found is None else (best, found)

    def _joined(self, chain: list[tuple[Call, dict[int, Tensor]]], rows: Tensor) -> CapturedPass | None:
        """Some sequences of calls that go on from each other, as one; None where that is a single step."""
        (first, _), (final, sent) = chain[0], chain[-1]
        # A packed sequence may end before the longest does.
        ends = [slice(None)] * (len(chain) - 1) + [slice(int(final.lengths[rows].max()))]
        x = torch.cat([call.x[rows, end] for (call, _), end in zip(chain, ends, strict=True) if call.x is not None], 1)
        self.reason = "" if x.shape[1] > 1 else STEPWISE
        if self.reason:
            return None
        sizes = [back[0] for _, back in chain if 0 in back]
        outputs = [
            (back[0] if 0 in back else sizes[0].new_zeros(*call.x.shape[:2], sizes[0].shape[2]))[rows, end]
            for (call, back), end in zip(chain, ends, strict=True)
            if sizes and call.x is not None
        ]
        return CapturedPass(
            x=x,
            state=_rows(first.state, rows),
            output=torch.cat(outputs, 1) if outputs else None,
            last=tuple(None if place not in sent else sent[place][:, rows] for place in range(1, len(final.ends) + 1)),
            carried=first.carried,
        )

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # A shallow copy and the replicas of data parallelism share the hooks of the layer.
        if module is not self.layer or not torch.is_grad_enabled() or _is_traced():
            return
        self._called(self)
        if self._wanted(self):
            self.ran, self.silence = True, "no gradient came back to what it returned"
            self.reason = self._listen(args, kwargs, output)
            self.refused = self.reason or self.refused

    def _listen(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> str:
        """Keep some sequences of the input, and hooks on the outputs for what comes back; a reason where it cannot."""
        given: Any = args[0] if args else kwargs.get("input")
        state = _parts(args[1] if len(args) > 1 else kwargs.get("hx"))
        returned, ends = (output[0], _parts(output[1])) if _is_pair(output) else (output, ())
        if reason := self._unfit(given, state, returned, ends):
            return reason
        some = slice(SEQUENCES)
        with torch.no_grad():
            x, lengths = _steps(given, self.layer.batch_first)
            # States have one step each: copies, for a mask may be laid over them in place.
            call = Call(
                number=self._count,
                x=x,
                lengths=lengths.to(x.device),
                state=tuple(part.detach().clone() for part in state),
                carried=any(part.requires_grad for part in state),
                ends=tuple(part.detach().clone() for part in ends),
            )
            if self._is_strange and not isinstance(returned, PackedSequence):
                output, _ = _steps(returned, self.layer.batch_first)
                if reason := differs(self.layer, x[some], _rows(call.state, some), output[some]):
                    return reason
                self._is_strange = False
        self._count += 1
        if isinstance(returned, PackedSequence):
            self._hear(call, 0, returned.data, lambda gradient: _steps(returned._replace(data=gradient), True)[0])
        else:
            self._hear(call, 0, returned, lambda gradient: _steps(gradient, self.layer.batch_first)[0])
        for place, end in enumerate(ends, 1):
            self._hear(call, place, end, Tensor.detach)
        return ""

    def _unfit(self, given: Any, state: tuple[Any, ...], returned: Any, ends: tuple[Any, ...]) -> str:
        """Why this layer has no lags to tell of; empty where it has."""
        if self.layer.bidirectional:
            return "it is bidirectional, and so reads the future; gradscope analyze shows each direction"
        if self.layer.mode not in KERNELS:
            return f"its mode {self.layer.mode} is none of torch.nn"
        if any(not isinstance(p, nn.Parameter) for p in self.layer.parameters(recurse=False)):
            return "it is called with weights that it has for this call alone (functional_call)"
        packed = isinstance(given, PackedSequence)
        if not packed and not (isinstance(given, Tensor) and given.ndim == 3):
            return "its input is no batch of sequences"
        if not packed and not given.numel():
            return "its batch is empty"
        if packed != isinstance(returned, PackedSequence) or not (packed or isinstance(returned, Tensor)):
            return (
                f"{type(self.layer).__name__} returns something else than nn.{self.layer.mode.partition('_')[0]} does"
            )
        if not packed and returned.shape[:2] != given.shape[:2]:
            return f"{type(self.layer).__name__} returns {tuple(returned.shape)} for an input of {tuple(given.shape)}"
        if not all(isinstance(part, Tensor) and part.ndim == 3 for part in (*state, *ends)):
            return "its state is no tensor of (layers, sequences, features)"
        return ""

    def _hear(self, call: Call, place: int, tensor: Tensor, some: Callable[[Tensor], Tensor]) -> None:
        if not tensor.requires_grad:
            return

        def came(gradient: Tensor) -> None:
            if call.x is None or not self._wanted(self):
                return
            with torch.no_grad():
                call.hear(backward_number(), place, some(gradient), self._worth)
            self._calls[call.number] = call
            self.silence = (
                "a gradient came back to it, and none to a parameter of the model: nothing of that is trained"
            )
            if len(self._calls) > MOST_CALLS:
                self._calls.pop(min(self._calls)).x = None

        tensor.register_hook(Hook(came, self._failed))


def _is_traced() -> bool:
    """Whether the layer runs for torch.jit or torch.func, on tensors that are none."""
    return is_jit_traced() or is_transformed()


def _is_pair(output: Any) -> bool:
    return isinstance(output, tuple) and len(output) == 2 and not isinstance(output, PackedSequence)


def _parts(state: Any) -> tuple[Any, ...]:
    """h, or h and c: torch takes them as a tuple or a list."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _steps(tensor: Tensor | PackedSequence, batch_first: bool) -> tuple[Tensor, Tensor]:
    """Sequences as (sequences, T, features), and the steps of each, (sequences)."""
    if isinstance(tensor, PackedSequence):
        x, lengths = pad_packed_sequence(tensor, batch_first=True)
        return x.detach(), lengths
    x = tensor.detach() if batch_first else tensor.detach().transpose(0, 1)
    return x, torch.full(x.shape[:1], x.shape[1])


def _add(to: dict[int, Tensor], more: dict[int, Tensor]) -> None:
    for place, gradient in more.items():
        to[place] = to[place] + gradient if place in to else gradient


def _moves(sent: dict[int, Tensor]) -> bool:
    """Whether anything that came back is not zero."""
    return any(bool((gradient != 0).any()) for gradient in sent.values())


def _goes_on(earlier: Call, later: Call) -> Tensor:
    """Which sequences of a call were handed the state that another ended with, (sequences)."""
    pairs = list(zip(earlier.ends, later.state, strict=False))
    if not pairs or len(earlier.ends) != len(later.state) or any(end.shape != start.shape for end, start in pairs):
        return torch.zeros_like(later.lengths, dtype=torch.bool)
    # Equal numbers, and not the same tensor: a mask of ones between two calls changes nothing.
    same = torch.stack([(end == start).all(2).all(0) for end, start in pairs]).all(0)
    # What is packed with padding behind it is no part of a longer sequence.
    return same & (earlier.lengths == earlier.lengths.max())


def _rows(state: tuple[Tensor, ...], rows: Tensor | slice) -> Any:
    """Some sequences of a state, as the layer takes it."""
    if not state:
        return None
    return tuple(part[:, rows] for part in state) if len(state) > 1 else state[0][:, rows]
