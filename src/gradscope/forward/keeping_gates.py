"""Gates that keep the state of a recurrence, and the biases that set them, read off one step of the graph.

A gate keeps the state if it is a sigmoid, or one minus it, that multiplies the state before itself, and the product is
but added to (or bounded by tanh) on its way to the state after: f of `f * c + i * g`, z of `(1 - z) * n + z * h` and of
`n + z * (h - n)`, not r of `tanh(U (r * h))`. Where the product comes with a minus, as in `h - z * (h - n)`, the gate
keeps the state when it is shut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.forward.autograd_graph import Read, Value
from gradscope.forward.step_reader import SAME, Piece, StepReader
from gradscope.torch_private import saved

ADDENDS = ("AddmmBackward0", "AddBackward0", "SubBackward0")
SUMS = ("AddBackward0", "SubBackward0", "CatBackward0", "StackBackward0", "TanhBackward0", "WhereBackward0", *SAME)


@dataclass(frozen=True)
class Keep:
    """A gate that keeps the state where its pre-activation is large (`sign` 1) or small (-1)."""

    sign: int
    biases: tuple[Piece, ...]
    """Added to each other in its pre-activation."""
    shifted: tuple[int, int, int] | None = None
    """(operation, start, length) of the sigmoid, where numbers that are no parameters are added too."""


class GateReader(StepReader):
    """Finds them."""

    def keeps(self) -> tuple[Keep, ...]:
        """Distinct ones, in order of use."""
        return tuple(dict.fromkeys(keep for index in self.step.nodes if (keep := self._keep(index)) is not None))

    def _keep(self, index: int) -> Keep | None:
        """The gate of a product with the state, if it is one."""
        gated, path = self._gated(index), self._added(index)
        if gated is None or not path:
            return None
        gate, sign, start = gated[0], gated[1] * path, 0
        length = self.graph.shape((index, 0))[-1]
        while self.graph.names[gate[0]] != "SigmoidBackward0":
            turned = self._complement(gate)
            moved = (turned, start) if turned is not None else self.moved(gate, start)
            if moved is None or moved[0] is None:
                return None
            sign, gate, start = -sign if turned is not None else sign, moved[0], moved[1]
        given = self.graph.reads[gate[0]][0]
        biases = tuple(dict.fromkeys(self._biases(given, start, length)))
        if not biases:
            return None
        return Keep(sign, biases, (gate[0], start, length) if self._is_shifted(given) else None)

    def _complement(self, value: Value) -> Read:
        """What a value is one minus."""
        name, reads = self.graph.names[value[0]], self.graph.reads[value[0]]
        if name == "RsubBackward1":
            return reads[0]
        return reads[1] if name == "SubBackward0" and reads[0] is None else None

    def _gated(self, index: int) -> tuple[Value, int] | None:
        """What multiplies the state before, and the sign of that product."""
        name, reads = self.graph.names[index], self.graph.reads[index]
        if name == "LerpBackward1":
            start, end, weight = reads
            if weight is not None and self.is_state(start) != self.is_state(end):
                return weight, 1 if self.is_state(end) else -1
        factors = {"MulBackward0": reads, "AddcmulBackward0": reads[1:]}.get(name, ())
        if len(factors) != 2:
            return None
        for gate, other in (factors, factors[::-1]):
            if gate is None or other is None:
                continue
            if self.is_state(other):
                return gate, 1
            if self.graph.names[other[0]] == "SubBackward0":
                kept, left = self.graph.reads[other[0]]
                if self.is_state(kept) != self.is_state(left):
                    return gate, 1 if self.is_state(kept) else -1
        return None

    def _added(self, index: int) -> int:
        """The sign with which a result is added to, and put together with others, on its way to the state after.

        0 where it does not come there so, or with both signs.
        """
        stack, seen, signs = [(index, 1)], {(index, 1)}, set[int]()
        while stack:
            place, sign = stack.pop()
            if any((place, nr) in self.after for nr in range(self.graph.results(place))):
                signs.add(sign)
                continue
            for user, at in self.graph.users[place]:
                name = self.graph.names[user]
                if name not in SUMS and not (name == "AddcmulBackward0" and at == 0):
                    continue
                turned = sign * (-1 if name == "SubBackward0" and at == 1 else 1) * (self._weighs(user, at))
                if (user, turned) not in seen:
                    seen.add((user, turned))
                    stack.append((user, turned))
        return signs.pop() if len(signs) == 1 else 0

    def _weighs(self, index: int, at: int) -> int:
        """The sign of a sum's alpha, for what is read at its second place."""
        alpha = saved(self.graph.nodes[index], "alpha", 1) if at == 1 else 1
        return -1 if isinstance(alpha, int | float) and alpha < 0 else 1

    def _biases(self, value: Read, start: int, length: int) -> Iterator[Piece]:
        """Parameters that are added to columns `start` .. of a value."""
        if value is None:
            return
        known, (index, _) = self.parameter(value), value
        if known is not None:
            name, leaf = known
            if leaf.ndim and leaf.numel() == leaf.shape[-1] >= start + length:
                yield Piece.whole(name, leaf).within(leaf.ndim - 1, start, length)
            return
        if self.graph.is_leaf[index]:
            return
        if self.graph.names[index] in ADDENDS:
            for read in self._addends(index):
                yield from self._biases(read, start, length)
        elif (moved := self.moved(value, start)) is not None:
            yield from self._biases(moved[0], moved[1], length)

    def _addends(self, index: int) -> Iterator[Read]:
        """What is added as it is."""
        node, reads = self.graph.nodes[index], self.graph.reads[index]
        name = self.graph.names[index]
        if name == "AddmmBackward0":
            yield reads[0] if saved(node, "beta") == 1 else None
            return
        yield reads[0]
        if name == "AddBackward0" and saved(node, "alpha", 1) == 1:
            yield from reads[1:]

    def _is_shifted(self, value: Read) -> bool:
        """Whether something that is no parameter, and cannot be seen, is added on the way to a gate as well."""
        if value is None or self.graph.is_leaf[value[0]]:
            return False
        name, reads = self.graph.names[value[0]], self.graph.reads[value[0]]
        if name in ("AddBackward0", "SubBackward0"):
            plain = name == "AddBackward0" and saved(self.graph.nodes[value[0]], "alpha", 1) == 1
            return not plain or None in reads or any(map(self._is_shifted, reads))
        moved = self.moved(value, 0)
        return moved is not None and self._is_shifted(moved[0])
