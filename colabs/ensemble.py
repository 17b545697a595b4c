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
# # Thousands of models at once
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/ensemble.ipynb)
#
# Train many models that differ in their initialisation only, on one device or spread over all there are, and keep
# streaming statistics with error bars instead of the models. The covariance of gradients over the ensemble commutes with
# the symmetry: project on that, and save models. Choose a GPU or TPU runtime, or leave it at two minutes on a CPU.

# %%
import os
import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "eqtoolbox"], check=True)

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqtoolbox as eqt

models = 4000  # @param {type: "integer"}
steps = 20  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    models = 128
print(f"{jax.device_count()} device(s): {jax.devices()[0].device_kind}")

# %% [markdown]
# ## A run
#
# The same as `eqtoolbox ensemble --widths 5 5 5 --activation tanh --models … --out …` in a terminal. Stopped, killed or
# preempted, it goes on from its last checkpoint and ends with the same bits: run the cell twice and look.

# %%
folder = Path(tempfile.mkdtemp()) / "tanh"
config = eqt.ensemble.EnsembleConfig(
    widths=(5, 5, 5), activation="tanh", models=models, steps=steps, optimizer="sgd", out=folder
).runs()[0]
eqt.ensemble.run_ensemble(config)
print(sorted(p.name for p in folder.iterdir()))

# %%
figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
axis.imshow(plt.imread(folder / "figure.png"))
axis.axis("off")
plt.show()

# %% [markdown]
# Left: the covariance of gradients before and after training; next to it its projection on what commutes with signed
# permutations of the hidden units. Right: the distance between the two falls as 1/n, as predicted from fourth moments.
#
# ## The factors are a preconditioner
#
# What the ensemble has learnt about one architecture can precondition the training of one model.

# %%
com, blocks = eqt.ensemble.load_factors(folder / f"covariance-t{steps}.npz")
print(com)
whiten = eqt.scale_by_symmetry(com.symmetry, factors=blocks, factor_decay=1.0)
print(type(whiten).__name__)

# %% [markdown]
# ## Your own ensemble
#
# Any init and loss; any statistic of a model. Here: how far apart do models of a small ReLU network end, and do the
# charges of their hidden units differ more between models than they move in training?

# %%
key = jax.random.key(0)
x = jax.random.normal(jax.random.fold_in(key, 1), (64, 4))
y = jnp.sin(x @ jnp.ones((4, 1)))
module = eqt.zoo.MLP((8, 1), "relu")


def init(key):
    return module.init(key, x)["params"]


def loss(params, batch):
    return jnp.mean((module.apply({"params": params}, batch[0]) - batch[1]) ** 2)


sym = eqt.infer_symmetry(lambda p, x: module.apply({"params": p}, x), jax.eval_shape(init, key), x)
ensemble = eqt.ensemble.Ensemble(
    init,
    loss,
    optax.sgd(0.05),
    times=(0, steps),
    statistics={"loss": eqt.ensemble.losses(), "charges": eqt.ensemble.charges(sym)},
    data=(x, y),
)
found = jax.jit(jax.vmap(lambda i: ensemble.samples(jax.random.fold_in(key, i))))(jnp.arange(256))

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
before, after = (
    np.asarray(jax.tree.leaves(found[t]["charges"])[0]).reshape(256, -1) for t in ("0", str(steps))
)
axes[0].hist(
    [np.asarray(found[t]["loss"]).ravel() for t in ("0", str(steps))], bins=24, label=["0", str(steps)]
)
axes[0].set(xlabel="loss", ylabel="models", title="256 models")
axes[0].legend(title="steps", frameon=False)
axes[1].plot(before[:, 0], after[:, 0], ".", ms=3)
axes[1].set(
    xlabel="charge at the start", ylabel=f"after {steps} steps", title="Charges remember where they began"
)
plt.show()
print(f"spread between models {before.std():.2f}; moved by {np.abs(after - before).mean():.3f} on average")
