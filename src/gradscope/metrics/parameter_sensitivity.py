"""How much larger the gradient of the weights is than what the newest step alone contributes to it."""

from __future__ import annotations

import math

from gradscope.numerics.analysis import Analysis, Unavailable
from gradscope.numerics.gradients.influence import by_lag


def measure(analysis: Analysis) -> float:
    """log10 of rms_b ||dl_b/dW|| / rms_b ||contribution of the newest step the loss reads||, of the first run.

    For h_t = lambda h_{t-1} + x_t with white input and a loss at the last step, its square tends to
    (1 + lambda^2) / (1 - lambda^2)^2: E (dh/dlambda)^2 = (1 + lambda^2)/(1 - lambda^2)^3 (Zucchet & Orvieto 2024) over
    E h^2 = 1/(1 - lambda^2). The sum over sequences is taken to be sqrt(B) times the root mean square of one.

    Raises:
        Unavailable: no recurrent weights.
    """
    analysis.require_finite()
    adjoint = analysis.adjoints[0]
    if adjoint.weight is None or adjoint.weight_gradient is None or not analysis.anchors:
        raise Unavailable("the recurrence has no weights of its own")
    newest = by_lag(adjoint.weight.T, analysis.newest[0], analysis.anchor)[:, 0]
    if not bool((newest > -math.inf).any()):
        raise Unavailable("the newest step contributes nothing to the gradient of the weights")
    rms = float((2 * newest * math.log(10)).logsumexp(0) - math.log(len(newest))) / 2 / math.log(10)
    return adjoint.weight_gradient - math.log10(len(newest)) / 2 - rms
