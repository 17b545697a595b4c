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
# # A first look at eqtoolbox
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/first_look.ipynb)
#
# A *symmetry* of a network moves its parameters and leaves its function alone. Here we label the axes of a small
# model, look at the group we get, and see what it forces on gradients and on training. Runs in about a minute on a CPU.

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

models = 1000  # @param {type: "integer"}
steps = 100  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    models, steps = 100, 20
print("jax", jax.__version__, "on", jax.devices()[0].platform)

# %% [markdown]
# ## A model and its labels
#
# A ReLU network 4 → 16 → 3 in Flax. Its hidden units can be permuted, and each can be scaled by c > 0 on the way
# in and by 1/c on the way out: one monomial group on the space `h`. In a label, `h` is an axis of those units and
# `h*` one that moves with the inverse.

# %%
module, params, inputs, apply = eqt.zoo.build("mlp", jax.random.key(0), features=(16, 3), activation="relu")
axes = {"Dense_0": {"kernel": "_ h", "bias": "h"}, "Dense_1": {"kernel": "h* _", "bias": "_"}}
sym = eqt.Symmetry(axes, {"h": eqt.groups.Monomial(16, scales=1)})
print(sym)

# %% [markdown]
# Is it true? `assert_invariant` tries random elements, in float32 and again in float64. A symmetry that the network
# does not have is rejected, with its error and its place:

# %%
error = eqt.testing.assert_invariant(sym, apply, params, inputs, key=jax.random.key(1))
print(f"largest relative change of the outputs: {error:.1e}")
wrong = eqt.Symmetry(axes, {"h": eqt.groups.Orthogonal(16)})
try:
    eqt.testing.assert_invariant(wrong, apply, params, inputs, key=jax.random.key(2))
except AssertionError as refusal:
    print("rotations:", refusal)

# %% [markdown]
# ## An orbit of equal models
#
# Elements are pytrees, so a thousand equal models are one `vmap`. They compute the same function, but their gradients
# differ, and with them the speed of learning.

# %%
targets = jax.nn.one_hot(jnp.argmax(inputs @ jax.random.normal(jax.random.key(3), (4, 3)), axis=1), 3)


def loss(p):
    return optax.softmax_cross_entropy(apply(p, inputs), targets).mean()


orbit = eqt.sample_orbit(sym, params, models, key=jax.random.key(4))
losses = jax.jit(jax.vmap(loss))(orbit)
norms = jax.jit(jax.vmap(lambda p: optax.tree.norm(jax.grad(loss)(p))))(orbit)
print(f"loss {losses.min():.6f} to {losses.max():.6f}; |gradient| {norms.min():.3f} to {norms.max():.3f}")

# %%
curves, trained = [], orbit


@jax.jit
@jax.vmap
def step(p):
    value, grads = jax.value_and_grad(loss)(p)
    return jax.tree.map(lambda x, g: x - 0.05 * g, p, grads), value


for _ in range(steps):
    trained, values = step(trained)
    curves.append(np.asarray(values))
order = np.argsort(norms)
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
colors = plt.colormaps["viridis"](np.linspace(0, 1, models))
for rank, member in list(enumerate(order))[::25]:
    axis.plot(np.stack(curves)[:, member], color=colors[rank], lw=0.8)
axis.set(
    xlabel="gradient descent step", ylabel="loss", title="Equal models, trained on (bright: large gradient)"
)
plt.show()

# %% [markdown]
# ## What a symmetry forces on the gradient
#
# The generators ξ ↦ X(θ)ξ span the tangent of the orbit. The gradient is orthogonal to it, at every point: the loss is
# flat along 16 directions that we can name.

# %%
parts, info = eqt.split(sym, params, jax.grad(loss)(params))
print("dimension of the orbit:", eqt.orbit_dimension(sym, params))
print(f"part of the gradient along it: {info.residual:.1e} of its norm")
xi = sym.sample_algebra(jax.random.key(5))
print(f"derivative of the loss along a generator: {eqt.lie_derivative(sym, loss, params, xi):.1e}")

# %% [markdown]
# ## Attention heads
#
# A fused projection is an axis made of products and sums. Each head carries two linear groups, one between queries and
# keys and one between values and outputs, and the heads can be permuted: GL ≀ S.

# %%
module, params, inputs, apply = eqt.zoo.build("fused_qkv", jax.random.key(6))
linear = eqt.groups.GeneralLinear(3)
heads = eqt.Symmetry(
    {"qkv/kernel": "_ (heads qk + heads qk* + heads vo)", "out/kernel": "(heads vo*) _"},
    {("heads", "qk", "vo"): eqt.groups.Wreath(eqt.groups.Product(linear, linear), eqt.groups.Permutation(2))},
)
print(heads)
print(f"error: {eqt.testing.assert_invariant(heads, apply, params, inputs, key=jax.random.key(7)):.1e}")
print("dimension of the orbit:", eqt.orbit_dimension(heads, params))
