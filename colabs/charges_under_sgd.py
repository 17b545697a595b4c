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
# # Conserved charges, and how SGD moves them
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/charges_under_sgd.ipynb)
#
# Every continuous symmetry has charges that gradient flow conserves. Gradient descent moves them, by an exactly known
# amount; momentum and weight decay follow a recursion; noise makes them drift. One optax wrapper keeps track of all of it.
# Two minutes on a CPU.

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

steps = 2000  # @param {type: "integer"}
learning_rate = 0.1  # @param {type: "number"}
momentum = 0.9  # @param {type: "number"}
weight_decay = 1e-3  # @param {type: "number"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    steps = 100

# %% [markdown]
# ## Data, a ReLU network, its symmetry
#
# A ReLU unit can be scaled by c on the way in and by 1/c on the way out. Its charge is ‖in‖² − ‖out‖².

# %%
data = eqt.zoo.digits()
images, labels = data.train_x, data.train_y
module = eqt.zoo.MLP((32, 10), "relu")
params = module.init(jax.random.key(0), images[:1])["params"]
sym = eqt.infer_symmetry(lambda p, x: module.apply({"params": p}, x), params, images[:2])
print(sym)
charges = eqt.noether.charge_fn(sym)
print({space: value.shape for space, value in charges(params).items()})


def batch_loss(p, batch):
    logits = module.apply({"params": p}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


# %% [markdown]
# ## Track them
#
# `track_charges` wraps any optimizer and leaves its updates as they are. Given the law of the optimizer it predicts the
# charges from the gradients alone.

# %%
law = eqt.noether.Law(learning_rate, momentum=momentum, l2=weight_decay)
inner = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum))
optimizer = eqt.track_charges(inner, sym, law=law)


@jax.jit
def train(params, key):
    def step(carry, key):
        p, state = carry
        rows = jax.random.randint(key, (128,), 0, len(images))
        batch = (images[rows], labels[rows])
        value, grads = jax.value_and_grad(batch_loss)(p, batch)
        updates, state = optimizer.update(grads, state, p)
        p = optax.apply_updates(p, updates)
        return (p, state), (value, charges(p), eqt.noether.metrics(state))

    start = (params, optimizer.init(params))
    return jax.lax.scan(step, start, jax.random.split(key, steps))


(trained, state), (losses, history, measured) = train(params, jax.random.key(1))
print("what a logger gets:", sorted(measured))
print(f"loss {losses[0]:.2f} → {losses[-1]:.3f}")

# %%
space = next(iter(history))
values = np.asarray(history[space]).reshape(steps, -1)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
axes[0].plot(values[:, :: max(1, values.shape[1] // 12)], lw=0.9)
axes[0].set(xlabel="step", ylabel="charge of a unit", title="Momentum and decay move the charges")
for name in sorted(measured):
    if name.startswith(("residual", "law")):
        axes[1].semilogy(np.maximum(np.asarray(measured[name]), 1e-12), lw=0.9, label=name)
axes[1].set(xlabel="step", ylabel="relative to their size", title="The law is followed; the symmetry holds")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## A broken symmetry raises an alarm
#
# The residual ⟨∇L, Xθ⟩ is zero at every step for a symmetry of the loss. Label one layer only and it is not:

# %%
wrong = eqt.Symmetry({"Dense_0": {"kernel": "_ h", "bias": "h"}}, {"h": eqt.groups.PositiveScaling(32)})
grads = jax.grad(batch_loss)(params, (images[:128], labels[:128]))
for name, candidate in {"inferred": sym, "wrong": wrong}.items():
    worst = max(float(jnp.max(jnp.abs(r))) for r in eqt.noether.residual(candidate, params, grads).values())
    print(f"{name}: residual {worst:.1e}")

# %% [markdown]
# ## Noise
#
# One step of SGD moves a charge by η²⟨g, Mg⟩, on average by η² times the second moment of the gradient: its mean, and
# its covariance over the batch size. Compare the exact expectation with a thousand different batches.

# %%
rows = jax.random.choice(jax.random.key(2), len(images), (256,), replace=False)
pool = (images[rows], labels[rows])
samples = eqt.linalg.per_example_grads(batch_loss, params, pool)
expected = eqt.noether.one_step_expectation(sym, samples, learning_rate, 16)


def moved(key):
    chosen = jax.random.randint(key, (16,), 0, 256)
    mean = jax.tree.map(lambda g: g[chosen].mean(0), samples)
    new = jax.tree.map(lambda p, g: p - learning_rate * g, params, mean)
    return jax.tree.map(jnp.subtract, charges(new), charges(params))


draws = jax.jit(jax.vmap(moved))(jax.random.split(jax.random.key(3), 1000))[space].reshape(1000, -1)
target = np.asarray(expected[space]).ravel()
error = draws.std(0) / np.sqrt(1000)
figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
axis.errorbar(target, draws.mean(0), yerr=2 * error, fmt=".", ms=4, lw=0.8)
ends = [target.min(), target.max()]
axis.plot(ends, ends, color="0.6", lw=0.8)
axis.set(xlabel="exact expectation of ΔC", ylabel="mean over 1000 batches ± 2 SE", title="One step of SGD")
plt.show()
inside = np.mean(np.abs(draws.mean(0) - target) < 2 * error)
print(f"{inside:.0%} of the charges within two standard errors")
