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
# # Inferring and discovering symmetries of your own model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/discovery.ipynb)
#
# Two ways to a symmetry that you did not state. *Inference* reads it off the program: exact, for any size. *Discovery*
# looks at numbers alone: it finds what no label expresses, in a family of generators that you choose. Two minutes on a
# CPU.

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

import eqtoolbox as eqt
from eqtoolbox import discovery

width = 6  # @param {type: "integer"}
steps = 500  # @param {type: "integer"}
largest = 2000  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    width, steps, largest = 3, 5, 1
    jax.config.update(
        "jax_disable_most_optimizations", True
    )  # tiny arrays: nearly all of the time is compiling

# %% [markdown]
# ## Infer
#
# Any pure function of parameters and inputs will do; here one with a ReLU layer and a linear one. The units of the first
# can be permuted and scaled, those of the second take any invertible matrix. `check` draws random elements, and up to
# `largest` parameters it counts the flat directions that are left.

# %%
shapes = {"first": (4, width), "bias": (width,), "second": (width, 2), "last": (2, 1)}
keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
params = {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=False)}
inputs = jax.random.normal(keys[-1], (16, 4))


@jax.jit
def apply(p, x):
    return jax.nn.relu(x @ p["first"] + p["bias"][None]) @ p["second"] @ p["last"]


inferred = eqt.infer_symmetry(apply, params, inputs)
print(inferred)
report = eqt.inference.check(inferred, apply, params, inputs, key=jax.random.key(1), max_parameters=largest)
print(report)

# %% [markdown]
# ## Discover and audit
#
# All infinitesimal symmetries within a family are the null space of linear equations, one for each random θ and x:
# ⟨∇f, ξ(θ)⟩ = 0. The family here has a full matrix on each axis of each leaf. The rank is decided by the gap in the
# spectrum, which is at rounding for a symmetry and far above for anything else. `audit` compares what is found with what
# is known, and both with the level set of θ: all parameters nearby of the same function.

# %%
family = discovery.axis_family(params)
audit = discovery.audit(
    apply, params, inputs, known=inferred, key=jax.random.key(4), family=family, dense_limit=largest
)
print(audit)
found = audit.found
print(f"\nthe last of the {found.dimension} generators:", found.describe(found.dimension - 1))

figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
values = found.spectrum / found.spectrum[0]
null = np.arange(len(values)) >= len(values) - found.dimension - found.trivial
axis.semilogy(np.flatnonzero(~null), values[~null], ".", label="no symmetry")
axis.semilogy(
    np.flatnonzero(null), np.maximum(values[null], 1e-18), ".", color="C3", label="symmetry, or no motion"
)
axis.set(xlabel="index", ylabel="singular value / largest", title="The gap")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What no label says
#
# Nothing new was found, and yet the level set is larger than the orbit: the family was too small.
#
# All linear maps of the last two layers have it: with one output u = `last`, `second` may move by v (J u)ᵀ for any v and
# J = (0 −1; 1 0), because (J u)ᵀu = 0. Labels cannot say so: each entry moves by entries of another leaf.

# %%
larger = discovery.linear_family(params, ["second", "last"])
more = discovery.null_space(larger, apply, params, inputs, key=jax.random.key(5))
extra = discovery.novelty(more, inferred, params, key=jax.random.key(10))
print(f"{more.dimension} found in {larger}, {extra.new} of them new")
print(f"directions that leave the known orbit: {extra.off_orbit}; unexplained above: {audit.unexplained}")
print(more.describe(more.dimension - 1))

# %% [markdown]
# ## A planted symmetry
#
# Nobody reads this one off the program: a network of z = Qθ that sees z₁ and z₂ through z₁² + z₂² alone. Its generator is
# a rotation in a plane that Q hides.

# %%
rng = np.random.default_rng(0)
mix, inner, outer = rng.normal(size=(4, 4)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))


def planted(p, x):
    z = jnp.asarray(mix, x.dtype) @ p["theta"]
    features = jnp.stack([z[0] ** 2 + z[1] ** 2, z[2], z[3]])
    return jnp.tanh((jnp.asarray(inner, x.dtype) @ features)[None] + x @ jnp.asarray(outer, x.dtype).T).sum(1)


theta, x = {"theta": jnp.ones(4)}, jax.random.normal(jax.random.key(6), (16, 2))
hidden = discovery.null_space(discovery.linear_family(theta), planted, theta, x, key=jax.random.key(7))
generator = hidden.basis[0].reshape(4, 4)
turn = np.zeros((4, 4))
turn[0, 1], turn[1, 0] = -1, 1
right = np.linalg.solve(mix, turn @ mix)
right /= np.linalg.norm(right) * np.sign(np.sum(right * generator))
print(f"{hidden.dimension} found; distance to the planted one {np.linalg.norm(generator - right):.1e}")

figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.6), layout="constrained")
seen = mix @ generator @ np.linalg.inv(mix)
for axis, matrix, title in zip(
    axes, (generator, right, seen), ("found", "planted", "found, seen by z"), strict=True
):
    axis.imshow(matrix, cmap="RdBu", vmin=-np.abs(matrix).max(), vmax=np.abs(matrix).max())
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## A learned field
#
# A field need not be linear, or independent of the data. Directions that keep the loss of a few data exist in any
# network; `learn` finds fields whose brackets close among them, and their flow keeps the loss as well as the
# integrator does.


# %%
def losses(p, x):
    hidden_units = jnp.tanh(p[:4].reshape(2, 2) @ x[:2])
    return ((p[4:6] @ hidden_units) - x[2])[None] ** 2


def draw(key):
    k_theta, k_x = jax.random.split(key)
    return jax.random.normal(k_theta, (6,)), jax.random.normal(k_x, (3,))


learned, terms = discovery.learn(jax.random.key(8), losses, draw, steps=steps, batch=32, hidden=(32, 32))
print({name: f"{float(value):.2g}" for name, value in terms.items()})
start, datum = draw(jax.random.key(9))


@jax.jit
def along(t):
    field = lambda p: discovery.field_basis(learned["net"], losses, p, datum, 1)[0]  # noqa: E731
    end = discovery.flow(field, start, t)
    straight = start + t * field(start)
    return jnp.stack([losses(end, datum)[0], losses(straight, datum)[0]]), end


times = jnp.linspace(0, 3, 31)
levels, path = jax.lax.map(along, times)
figure, (left, middle) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
left.plot(times, path, lw=1.2)
left.set(xlabel="t", ylabel="parameters", title="Along the flow")
middle.semilogy(times[1:], jnp.maximum(jnp.abs(levels[1:, 0] - levels[0, 0]), 1e-9), label="flow")
middle.semilogy(times[1:], jnp.maximum(jnp.abs(levels[1:, 1] - levels[0, 1]), 1e-9), label="straight line")
middle.set(xlabel="t", ylabel="|change of the loss|", title="The loss is kept")
middle.legend(frameon=False)
plt.show()
