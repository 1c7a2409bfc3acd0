"""The same in JAX, where it is installed: jacfwd, vmap and a scan of QR factorisations, compiled."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torch import Tensor

from benchmarks.measure import Job
from gradscope.models.stack import Recurrent


def version() -> str | None:
    """Of JAX; None where it is not installed."""
    return None if importlib.util.find_spec("jax") is None else str(importlib.import_module("jax").__version__)


def exponents_and_norms(model: Recurrent, x: Tensor) -> Job:
    """Exponents, and ln sigma_max at every lag, of a tanh RNN on x (1, T, features); double precision."""
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    jax.config.update("jax_enable_x64", True)
    w = {key.removeprefix("l0."): jnp.asarray(value.numpy()) for key, value in model.parameters().items()}
    inputs, eye = jnp.asarray(x[0].numpy()), jnp.eye(model.state_size, dtype=x.numpy().dtype)

    def step(s: Any, x: Any) -> Any:
        return jnp.tanh(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ s + w["bias_hh"])

    def frame(q: Any, jacobian: Any) -> Any:
        q, r = jnp.linalg.qr(jacobian @ q)
        return q, jnp.log(jnp.abs(jnp.diagonal(r)))

    def product(carry: Any, jacobian: Any) -> Any:
        p, log = carry
        p = p @ jacobian
        norm = jnp.linalg.norm(p, 2)
        return (p / norm, log + jnp.log(norm)), log + jnp.log(norm)

    def everything(inputs: Any) -> Any:
        _, before = jax.lax.scan(lambda s, x: (step(s, x), s), jnp.zeros(len(eye), eye.dtype), inputs)
        jacobians = jax.vmap(jax.jacfwd(step))(before, inputs)
        growth = jax.lax.scan(frame, eye, jacobians)[1].mean(0)
        return growth, jax.lax.scan(product, (eye, jnp.zeros((), eye.dtype)), jacobians, reverse=True)[1]

    compiled = jax.jit(everything)
    return lambda: jax.block_until_ready(compiled(inputs))
