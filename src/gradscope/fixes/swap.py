"""Another family of as many parameters."""

from __future__ import annotations

from collections.abc import Callable

from gradscope.fixes.remedy import Patient, Treated
from gradscope.fixes.replacement import other_cell
from gradscope.models.family import FamilyModel, Model, family_model
from gradscope.models.recurrent import Recurrent
from gradscope.rules.advice import half_life_bias

WIDEST = 4096


def swapped(
    family: str, options: Callable[[int], dict[str, str]], *, multiple: int = 1
) -> Callable[..., Treated | None]:
    """What `apply` of a swap is.

    Args:
        family: the word of the family.
        options: lag -> its options as text.
        multiple: of which its hidden size must be one.
    """

    def apply(patient: Patient) -> Treated | None:
        model = patient.model
        if not isinstance(model, Recurrent) or model.name.partition(":")[0] == family:
            return None
        given, wanted = options(patient.lag), parameters(model)
        first = next(iter(model.parameters().values()), None)
        if first is None or not wanted or not model.input_size:
            return None

        def settled(hidden: int) -> FamilyModel:
            chosen = {"hidden": str(hidden), **given}
            text = f"{family}:{','.join(f'{key}={value}' for key, value in chosen.items())}"
            return family_model(family, chosen, text, {})

        def build(hidden: int) -> Model:
            return settled(hidden).build(
                input_size=model.input_size, seed=patient.seed, dtype=first.dtype, device=str(first.device)
            )

        low, high = 1, 2
        while parameters(build(high * multiple)) < wanted and high < WIDEST:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(build(middle * multiple)) <= wanted else (low, middle)
        word = settled(low * multiple).text
        found = build(low * multiple)
        code, weights = other_cell(found)
        return Treated(word, found, f"# gradscope analyze {word}\n{code}", weights, another=True)

    return apply


def parameters(model: Model) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for value in model.parameters().values())


def held(name: str) -> Callable[[int], dict[str, str]]:
    """Options with a gate bias for a half-life of the lag."""
    return lambda lag: {name: f"{half_life_bias(lag):.2f}"}
