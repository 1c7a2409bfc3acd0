"""A leaky state (Jaeger et al. 2007): h' = (1 - a) h + a phi(...), with a for a half-life of the needed lag."""

from __future__ import annotations

from gradscope.fixes.elman import exchanged
from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.fixes.replacement import other_step
from gradscope.fixes.steps import Leaky
from gradscope.models.recurrent import Recurrent


def apply(patient: Patient) -> Treated | None:
    """(1 - a)^K = 1/2."""
    leak = 1 - 0.5 ** (1 / max(patient.lag, 1))
    model = exchanged(patient.model, lambda weights, phi: Leaky(weights, phi, leak))
    if model is None:
        return None
    assert isinstance(patient.model, Recurrent)
    what = f"h + {leak:.4g} (phi(W x + U h + b) - h) (Jaeger et al. 2007)."
    code, weights = other_step(patient.model, "Leaky", what, f"h + {leak!r} * ({{phi(sum)}} - h)")
    return Treated(f"h + {leak:.2g} (φ - h)", model, code, weights)


REMEDY = Remedy("leaky state", "a straight path that keeps half of the state over the needed lag", apply)
