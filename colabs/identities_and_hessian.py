# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a symmetry forces on gradient and Hessian
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/identities_and_hessian.ipynb)
#
# Say a symmetry once, and both sides of the identities of Yang & Ziyin follow: the gradient is orthogonal to the orbit,
# the Hessian along the orbit is known from first derivatives, and at a minimum it vanishes there. We compute both sides,
# look at the spectrum of a trained network, and see what a *wrong* symmetry gives. Two minutes on a CPU.

# %%
import os
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "eqtoolbox"], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqtoolbox as eqt

hidden = 8  # @param {type: "integer"}
steps = 20000  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    steps = 300
jax.config.update("jax_enable_x64", True)  # identities to rounding

# %% [markdown]
# ## A model, and its symmetry
#
# A linear network 4 → h → 3 and a regression. Any invertible matrix can act on its hidden units: GL(h).

# %%
keys = jax.random.split(jax.random.key(0), 6)
params = {
    "Dense_0": {"kernel": jax.random.normal(keys[0], (4, hidden)) / 2, "bias": jnp.zeros(hidden)},
    "Dense_1": {"kernel": jax.random.normal(keys[1], (hidden, 3)) / 3, "bias": jnp.zeros(3)},
}
x = jax.random.normal(keys[2], (32, 4))
y = jnp.sin(x @ jax.random.normal(keys[3], (4, 3)))


def apply(p, x):
    return (x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def model(p):
    return apply(p, x)


def output_loss(outputs):
    return jnp.mean((outputs - y) ** 2)


sym = eqt.infer_symmetry(apply, params, x)
print(sym)

# %% [markdown]
# ## Both sides
#
# `first_order` and `second_order` return the left side, computed with derivatives of the loss, the right side, term by
# term, and the residual: how far apart they are, relative to the size of what is added.

# %%
xi = sym.sample_algebra(keys[4])
first = eqt.identities.first_order(sym, model, output_loss, params, directions=xi)
second = eqt.identities.second_order(sym, model, output_loss, params, directions=xi)
print(f"∇L·Xξ = 0:                        residual {first.residual:.1e}")
print(f"∇²L·Xξ = −(∂Xξ)ᵀ∇L:               residual {second.residual:.1e}")
print("sizes of the terms:", {name: f"{optax.tree.norm(term):.2g}" for name, term in second.terms.items()})

wrong = eqt.Symmetry({"Dense_0": {"kernel": "_ h1", "bias": "h1"}}, sym.groups)  # forgets the second layer
refuted = eqt.identities.second_order(wrong, model, output_loss, params, directions=xi)
print(f"a wrong symmetry:                 residual {refuted.residual:.1e}")

# %% [markdown]
# ## A Hessian product for the price of a gradient
#
# The right side needs no second derivative. `hvp_along` is ∇²L·Xξ; compare it with forward-over-reverse.

# %%
tangent = sym.generator(xi, params)
cheap = eqt.identities.hvp_along(sym, model, output_loss, params, direction=xi)
exact = eqt.linalg.hvp(lambda p: output_loss(model(p)), params, tangent)
error = optax.tree.norm(jax.tree.map(jnp.subtract, cheap, exact)) / optax.tree.norm(exact)
print(f"relative difference of the two products: {error:.1e}")

# %% [markdown]
# ## The spectrum at a minimum
#
# Train to a minimum: the Hessian must vanish along the whole orbit. Count its zero eigenvalues against the dimension of
# the orbit.

# %%
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))


@jax.jit
def train(params):
    def step(carry, _):
        p, state = carry
        value, grads = jax.value_and_grad(lambda p: output_loss(model(p)))(p)
        updates, state = optimizer.update(grads, state, p)
        return (optax.apply_updates(p, updates), state), value

    (trained, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return trained, losses


trained, losses = train(params)
found = {}
for name, point in {"at the start": params, "trained": trained}.items():
    dense = eqt.linalg.to_dense(eqt.linalg.hvp_fn(lambda p: output_loss(model(p)), point), point)
    found[name] = np.sort(np.abs(np.linalg.eigvalsh(np.asarray(dense))))[::-1]
flat = eqt.identities.degeneracy(sym, model, output_loss, trained)
print(f"loss {losses[0]:.3f} → {losses[-1]:.6f}; the gradient is {flat.gradient:.1e}")
print(
    f"{flat.dimension} flat directions; the largest curvature along one: {jnp.max(flat.curvature):.1e} of ‖∇²L‖"
)

# %%
figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for name, values in found.items():
    axis.semilogy(np.maximum(values, 1e-18), ".-", ms=4, lw=0.8, label=name)
axis.axvline(len(values) - flat.dimension - 0.5, color="0.5", lw=0.8, ls="--")
axis.text(len(values) - flat.dimension, axis.get_ylim()[1] / 30, "orbit", color="0.4")
axis.set(xlabel="eigenvalue, by size", ylabel="|λ| of the Hessian", title="Along the orbit a minimum is flat")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Groups without generators
#
# Permutations and signs have no infinitesimal generators, but L(gθ) = L(θ) relates gradient and Hessian at θ and gθ.
# A tanh network, and one of its 2^h h! elements:

# %%
tanh = eqt.zoo.MLP((6, 3), "tanh")
weights = jax.tree.map(lambda w: w.astype(x.dtype), tanh.init(keys[5], x)["params"])
signs = eqt.infer_symmetry(lambda p, x: tanh.apply({"params": p}, x), weights, x)
g = signs.sample(jax.random.key(7))
discrete = eqt.identities.discrete(
    signs, g, lambda p: tanh.apply({"params": p}, x), output_loss, weights, key=jax.random.key(8)
)
print(signs)
worst = [float(jnp.max(part.residual)) for part in (discrete.first, discrete.second)]
print(f"gradient at gθ from that at θ: residual {worst[0]:.1e}; Hessian: {worst[1]:.1e}")
