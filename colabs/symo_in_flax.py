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
# # Training with a symmetry: symo in a Flax loop
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/symo_in_flax.ipynb)
#
# The symmetry of a network says which numbers the covariance of its gradients can have; `symo` whitens gradients by it. A
# drop-in optax optimizer: here in a linen loop and in an NNX loop, against Adam, with the structure it estimates drawn.
# Three minutes on a CPU.

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
from flax import nnx

import eqtoolbox as eqt

steps = 300  # @param {type: "integer"}
batch_size = 128  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    steps = 20

data = eqt.zoo.digits()
images, labels, test_images, test_labels = data.train_x, data.train_y, data.test_x, data.test_y

# %% [markdown]
# ## Linen: ten lines
#
# Infer the symmetry from the model, give it to `symo`, train as with any optax optimizer.

# %%
module = eqt.zoo.MLP((128, 10), "tanh")
params = module.init(jax.random.key(0), images[:1])["params"]
sym = eqt.infer_symmetry(lambda p, x: module.apply({"params": p}, x), params, images[:2])
print(sym)


def loss(p, batch):
    logits = module.apply({"params": p}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def train(optimizer, params, key):
    @jax.jit
    def run(params):
        def step(carry, key):
            p, state = carry
            rows = jax.random.randint(key, (batch_size,), 0, len(images))
            grads = jax.grad(loss)(p, (images[rows], labels[rows]))
            updates, state = optimizer.update(grads, state, p)
            p = optax.apply_updates(p, updates)
            return (p, state), loss(p, (test_images, test_labels))

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))

    return run(params)


schedule = optax.cosine_decay_schedule
curves = {}
for name, optimizer in {
    "symo": eqt.symo(schedule(0.02, steps), sym),
    "Adam": optax.adam(schedule(0.005, steps)),
    "SGD, momentum": optax.sgd(schedule(0.2, steps), momentum=0.9, nesterov=True),
}.items():
    (_, state), curves[name] = train(optimizer, params, jax.random.key(1))
    print(f"{name}: test loss {curves[name][-1]:.3f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, curve in curves.items():
    axis.semilogy(curve, label=name, lw=1.2)
axis.set(xlabel="step", ylabel="test loss", title="Digits, tanh network, batches of 128")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# One run with rates that were not tuned here: for a contest with equal trials, peers and intervals see
# `python scripts/benchmark.py optimizers`, and the README for what it says, wins and losses.
#
# ## What it estimates
#
# The commutant of the symmetry: one small matrix for each irreducible, instead of a p × p covariance. Averages over
# the orbit are what one model's gradients already show, because each block has many samples of itself.

# %%
com = eqt.curvature.Commutant(sym, params)
print(com)
samples = eqt.linalg.per_example_grads(loss, params, (images[:256], labels[:256]))
blocks = com.gram(samples, axis=0)
spectrum = com.spectrum(blocks)
print(f"{com.num_factors} numbers for the covariance of {com.size} parameters")

# %%
names, block = max(blocks.items(), key=lambda item: item[1].shape[-1])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
shown = np.asarray(block).reshape(-1, *block.shape[-2:])[0]
limit = np.percentile(np.abs(shown), 99)
left.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
left.set(title=f"block of {names}", xticks=[], yticks=[])
values, times = np.asarray(spectrum.values), np.asarray(spectrum.multiplicities)
order = np.argsort(values)[::-1]
right.loglog(np.cumsum(times[order]), np.maximum(values[order], values.max() * 1e-9), drawstyle="steps")
right.set(xlabel="directions, counted with multiplicity", ylabel="eigenvalue", title="spectrum of the whole")
plt.show()

# %% [markdown]
# ## NNX: the same
#
# A state as a pure dict is a pytree like any other. `nnx.Optimizer` takes the transformation as it is.


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 64, rngs=rngs)
        self.second = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


net = Net(nnx.Rngs(0))
graph, variables = nnx.split(net, nnx.Param)
net_sym = eqt.infer_symmetry(lambda v, x: nnx.merge(graph, v)(x), variables, images[:2])
print(net_sym)
optimizer = nnx.Optimizer(net, eqt.symo(schedule(0.02, steps), net_sym), wrt=nnx.Param)


@nnx.jit
def nnx_step(net, optimizer, batch):
    def objective(net):
        return optax.softmax_cross_entropy_with_integer_labels(net(batch[0]), batch[1]).mean()

    value, grads = nnx.value_and_grad(objective)(net)
    optimizer.update(net, grads)
    return value


rng = np.random.default_rng(0)
for _ in range(steps):
    rows = rng.integers(0, len(images), batch_size)
    value = nnx_step(net, optimizer, (images[rows], labels[rows]))
print(
    f"NNX: last batch {value:.3f}, test accuracy {jnp.mean(net(test_images).argmax(-1) == test_labels):.3f}"
)
