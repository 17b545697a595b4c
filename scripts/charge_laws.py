"""The drift of charges against their closed form, as the README's Markdown table: ``python scripts/charge_laws.py``.

The MLP of the report on digits, 2000 steps on mini-batches of 128. The law sees the gradients only; its error is the
largest difference of a charge from the measured one, relative to the largest charge.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox import infer_symmetry, noether, track_charges
from eqtoolbox.report._digits import digits_problem

STEPS, BATCH, RATE, L2, DECAY = 2000, 128, 0.05, 1e-3, 1e-3
COSINE = optax.cosine_decay_schedule(RATE, STEPS)


def rules():
    """Names, optimizers and laws; momentum has the same effective step size."""
    slow = RATE / 10
    coupled = optax.add_decayed_weights(L2)
    decoupled = optax.add_decayed_weights(DECAY)
    rate, law = optax.scale_by_learning_rate, noether.Law
    return {
        "SGD": (optax.sgd(RATE), law(RATE)),
        "SGD, η = 0.5": (optax.sgd(0.5), law(0.5)),
        "SGD, cosine": (optax.sgd(COSINE), law(COSINE)),
        "SGD, L2": (optax.chain(coupled, optax.sgd(RATE)), law(RATE, l2=L2)),
        "SGD, decoupled decay": (optax.chain(decoupled, rate(RATE)), law(RATE, weight_decay=DECAY)),
        "heavy ball": (optax.sgd(slow, 0.9), law(slow, 0.9)),
        "heavy ball, L2": (optax.chain(coupled, optax.sgd(slow, 0.9)), law(slow, 0.9, l2=L2)),
        "heavy ball, decoupled decay, cosine": (
            optax.chain(optax.trace(0.9), decoupled, rate(COSINE)),
            law(COSINE, 0.9, weight_decay=DECAY),
        ),
        "Nesterov": (optax.sgd(slow, 0.9, nesterov=True), law(slow, 0.9, nesterov=True)),
        "Nesterov, L2": (
            optax.chain(coupled, optax.sgd(slow, 0.9, nesterov=True)),
            law(slow, 0.9, nesterov=True, l2=L2),
        ),
        "Adam (no law)": (optax.adam(1e-3), None),
    }


def measure(inner, law, dtype) -> tuple[float, float | None]:
    """(relative change of the charges, relative error of the law)."""
    problem = digits_problem("relu")
    sym = infer_symmetry(problem.apply, problem.init(jax.random.key(0)), problem.train.inputs[:8])
    cast = lambda x: jnp.asarray(x, dtype if jnp.issubdtype(jnp.result_type(x), jnp.floating) else None)  # noqa: E731
    params, data = jax.tree.map(cast, (problem.init(jax.random.key(0)), problem.train))
    tx = track_charges(inner, sym, law=law)
    indices = np.random.default_rng(0).integers(0, problem.train.size, (STEPS, BATCH))

    @jax.jit
    def run(params, data, indices):
        def step(carry, rows):
            params, state = carry
            gradient = jax.grad(problem.batch_loss)(params, jax.tree.map(lambda a: a[rows], data))
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), indices)[0]

    params, state = run(params, data, jnp.asarray(indices))
    charges, s = noether.charge_fn(sym)(params), state.charge_state

    def apart(a, b):
        pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
        size = max(float(jnp.max(jnp.abs(y))) for _, y in pairs)
        return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs) / size

    return apart(charges, s.charge_start), None if law is None else apart(s.charge_law.law_charge, charges)


def main() -> None:
    print("| optimizer | change of the charges | error of the law, float64 | float32 |")
    print("|---|---:|---:|---:|")
    for name, (inner, law) in rules().items():
        with jax.enable_x64(True):
            change, fine = measure(inner, law, jnp.float64)
        _, coarse = measure(inner, law, jnp.float32)
        errors = " | ".join("—" if e is None else f"{e:.0e}" for e in (fine, coarse))
        print(f"| {name} | {change:.2g} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
