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
# # Sparsity and low rank from mirror symmetries
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/sparsity_and_rank.ipynb)
#
# A reflection symmetry of a loss makes its mirror a place that training never leaves, and weight decay or noise push towards
# it (Ziyin 2024). Turned around, this imposes constraints: one wrapper around any optax optimizer makes weights vanish,
# whole neurons, or rank. Three minutes on a CPU.

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

steps = 4000  # @param {type: "integer"}
strength = 2e-3  # @param {type: "number"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    steps = 60

data = eqt.zoo.digits()
images, labels, test_images, test_labels = data.train_x, data.train_y, data.test_x, data.test_y
module = eqt.zoo.MLP((64, 10), "relu")
start = module.init(jax.random.key(0), images[:1])["params"]


def loss(p, batch):
    logits = module.apply({"params": p}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def accuracy(p):
    return jnp.mean(jnp.argmax(module.apply({"params": p}, test_images), -1) == test_labels)


# %% [markdown]
# ## The mirrors of a network
#
# They come from its symmetry: every exchange of two hidden units is one.

# %%
sym = eqt.infer_symmetry(lambda p, x: module.apply({"params": p}, x), start, images[:2])
mirrors = eqt.mirror.of(sym, start)
print(sym)
print(len(mirrors), "mirrors; the first:", mirrors[0])
angle = optax.tree.norm(mirrors[0].order(start))
print(f"order parameter ‖Oᵀθ‖ of a random network: {angle:.2f}")

# %% [markdown]
# ## One line around the optimizer
#
# `dcs` keeps factors of the parameters in its state, decays those, and emits updates of the parameters themselves. The
# model and the training loop stay as they are.


# %%
def train(optimizer, params):
    @jax.jit
    def run(params):
        def step(carry, key):
            p, state = carry
            rows = jax.random.randint(key, (128,), 0, len(images))
            value, grads = jax.value_and_grad(loss)(p, (images[rows], labels[rows]))
            updates, state = optimizer.update(grads, state, p)
            return (optax.apply_updates(p, updates), state), value

        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)

    (params, _), losses = run(params)
    return params, losses


def sgd():
    return optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)


dense, _ = train(sgd(), start)
sparse, _ = train(eqt.dcs(sgd(), eqt.mirror.sparse("*/kernel"), strength), start)
neurons, _ = train(eqt.dcs(sgd(), eqt.mirror.group_sparse(sym), strength), start)
low_rank, _ = train(eqt.dcs(sgd(), eqt.mirror.low_rank("*/kernel"), strength), start)

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for name, params in {"dense": dense, "sparse": sparse}.items():
    values = np.abs(np.asarray(params["Dense_0"]["kernel"])).ravel()
    axes[0].hist(np.log10(np.maximum(values, 1e-12)), bins=40, alpha=0.7, label=name)
axes[0].set(xlabel="log₁₀ |weight|", ylabel="weights", title="Single weights")
axes[0].legend(frameon=False)
for name, params in {"dense": dense, "neurons": neurons}.items():
    size = np.linalg.norm(np.asarray(params["Dense_0"]["kernel"]), axis=0)
    axes[1].semilogy(np.sort(np.maximum(size, 1e-12))[::-1], ".-", ms=3, lw=0.8, label=name)
axes[1].set(xlabel="hidden unit, by size", ylabel="norm of its incoming weights", title="Whole neurons")
axes[1].legend(frameon=False)
for name, params in {"dense": dense, "low rank": low_rank}.items():
    values = np.linalg.svd(np.asarray(params["Dense_0"]["kernel"]), compute_uv=False)
    axes[2].semilogy(np.maximum(values / values[0], 1e-9), ".-", ms=3, lw=0.8, label=name)
axes[2].set(xlabel="singular value", ylabel="relative to the largest", title="Rank")
axes[2].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Prune
#
# What has vanished can be cut away, and the outputs stay: for whole neurons the arrays really shrink.

# %%
for name, params, constraint in (
    ("sparse", sparse, eqt.mirror.sparse("*/kernel")),
    ("neurons", neurons, eqt.mirror.group_sparse(sym)),
):
    small, info = eqt.mirror.prune(params, constraint, tol=1e-4)
    count = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(small))
    print(f"{name}: {count} numbers left; accuracy {accuracy(params):.3f}, dense {accuracy(dense):.3f}")
    print(
        {
            path: leaf.shape
            for path, leaf in zip(eqt.symmetry.leaf_paths(small), jax.tree.leaves(small), strict=True)
        }
    )

# %% [markdown]
# ## When does SGD itself collapse?
#
# The Lyapunov exponent of ‖Pθ‖ at the mirror: below zero, noise alone draws training into it. A loss whose curvature
# across its mirror changes sign from batch to batch, with mean −0.1:

# %%
batches = jax.random.normal(jax.random.key(2), (4000,)) * 2.0 - 0.1
one = {"w": jnp.ones(1)}
flip = eqt.mirror.from_directions(one)
rates = jnp.geomspace(1e-3, 1.0, 25)
exponents = eqt.mirror.lyapunov(
    lambda p, h: h * jnp.sum(p["w"] ** 2) / 2, one, flip, batches, learning_rate=rates
)
figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
axis.axhline(0, color="0.7", lw=0.8)
axis.errorbar(rates, exponents.value, yerr=2 * exponents.standard_error, fmt=".-", lw=0.9)
axis.set(
    xscale="log", xlabel="learning rate", ylabel="Λ ± 2 SE", title="A saddle for the flow, a trap for SGD"
)
plt.show()
