"""Truncated BPTT over what chaos lets one predict (Mikhaeil et al. 2022): tau = ln 2 / lambda_1 steps."""

from __future__ import annotations

import math

from gradscope.fixes.remedy import Patient, Remedy, Treated
from gradscope.models.recurrent import Recurrent
from gradscope.numerics.spectra.exponents import lyapunov


def apply(patient: Patient) -> Treated | None:
    """The gradient is cut every tau steps, counted from the newest; None where nothing grows or would be cut."""
    model, length = patient.model, patient.x.shape[1]
    if not isinstance(model, Recurrent) or model.cuts:
        return None
    exponent = float(lyapunov(model.run(patient.x[:1]), 1).mean[0])
    window = max(1, round(math.log(2) / exponent)) if exponent > 0 else length
    if window >= length:
        return None
    # A cut at t keeps s_t from hearing of s_{t-1}: the newest window holds the last `window` states.
    cuts = tuple(range(length - window + 1, 1, -window))
    code = (
        f"# lambda_1 = {exponent:.4g} nats per step, so differences double every {window} steps. Windows end with the\n"
        "# sequence; the loss reads the last one.\n"
        "state = None\n"
        f"for stop in range(x.shape[1] % {window} or {window}, x.shape[1] + 1, {window}):\n"
        f"    output, state = rnn(x[:, max(0, stop - {window}) : stop], state)\n"
        "    if stop < x.shape[1]:\n"
        "        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()\n"
    )
    return Treated(f"BPTT over {window} steps", Recurrent(model.name, model.cells, start=model.start, cuts=cuts), code)


REMEDY = Remedy("truncated", "in chaos, gradients of older steps drown those of the newest", apply)
