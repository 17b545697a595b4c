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
# # Teleportation and mode connectivity
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs/teleport_and_connect.ipynb)
#
# The parameters of equal function form an orbit. Inside it one can move at no cost in loss: to where the gradient is
# large (teleportation), or to where another trained network lies (alignment). Three minutes on a CPU.

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

steps = 600  # @param {type: "integer"}
networks = 6  # @param {type: "integer"}
if os.environ.get("EQTOOLBOX_SMOKE"):
    steps, networks = 40, 2

data = eqt.zoo.digits()
images, labels, test_images, test_labels = data.train_x, data.train_y, data.test_x, data.test_y

# %% [markdown]
# ## Teleport
#
# A linear network on a regression, gradient descent with a small step, and now and then a move along the orbit of GL(h)
# to a larger gradient. The element is exact, every step is checked: the loss stays, or the step is refused.

# %%
keys = jax.random.split(jax.random.key(0), 4)
x, target = jax.random.normal(keys[0], (64, 6)), jax.random.normal(keys[1], (6, 4))
linear = {"u": jax.random.normal(keys[2], (6, 8)) / 4, "v": jax.random.normal(keys[3], (8, 4)) / 4}
sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.GeneralLinear(8)})


def regression(p):
    return jnp.mean((x @ p["u"] @ p["v"] - x @ target) ** 2)


moved, info = eqt.orbits.teleport_params(sym, regression, linear, steps=20)
print(
    f"‖∇L‖²: {info.objective_before:.3f} → {info.objective:.3f}; relative change of the loss {info.loss_error:.1e}"
)
print(
    "steps taken:",
    int(info.accepted),
    "refused:",
    {k: int(v) for k, v in info.refused._asdict().items() if v > 0},
)


# %%
def descend(optimizer):
    @jax.jit
    def run(params):
        def step(carry, _):
            p, state = carry
            value, grads = jax.value_and_grad(regression)(p)
            updates, state = optimizer.update(grads, state, p, value_fn=regression)
            return (optax.apply_updates(p, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[1]

    return run(linear)


rate = 0.02
plain = optax.with_extra_args_support(optax.sgd(rate))
teleporting = eqt.teleport(optax.sgd(rate), sym, every=50, steps=10, max_curvature=1 / rate)
figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
for label, optimizer in {"gradient descent": plain, "with a teleport every 50 steps": teleporting}.items():
    axis.semilogy(descend(optimizer), label=label, lw=1.2)
axis.set(xlabel="step", ylabel="loss", title="The same function, a steeper place")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# A teleport costs gradients of its own: whether it pays in time is another question, answered in the README.
#
# ## Align
#
# Train networks from different seeds. On the straight line between two of them the loss is high; some of that is only
# because their hidden units are in another order, or of another scale. `align` needs the symmetry, nothing else.

# %%
module = eqt.zoo.MLP((64, 10), "relu")
start = module.init(jax.random.key(1), images[:1])["params"]
relu = eqt.infer_symmetry(lambda p, x: module.apply({"params": p}, x), start, images[:2])
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))


def loss(p, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": p}, x), y).mean()


def train(key):
    first, second = jax.random.split(key)
    params = module.init(first, images[:1])["params"]

    def step(carry, key):
        p, state = carry
        rows = jax.random.randint(key, (128,), 0, len(images))
        grads = jax.grad(loss)(p, images[rows], labels[rows])
        updates, state = optimizer.update(grads, state, p)
        return (optax.apply_updates(p, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(second, steps))[0][0]


trained = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(2), networks))
models = [jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(networks)]

# %%
test_loss = jax.jit(lambda p: loss(p, test_images, test_labels))
curves = {"as trained": [], "permutations": [], "the whole group": []}
distances = {name: [] for name in curves}
for b in models[1:]:
    for name in curves:
        only = {"permutations": "permutations"}.get(name)
        aligned = b if name == "as trained" else eqt.orbits.align(relu, b, to=models[0], only=only)[0]
        curves[name].append(np.asarray(eqt.orbits.barrier(test_loss, models[0], aligned, points=25).losses))
        distances[name].append(float(eqt.orbits.weight_distance(models[0], aligned)))
figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
for name, found in curves.items():
    lines = axis.plot(np.linspace(0, 1, 25), np.transpose(found), lw=0.8, alpha=0.5)
    for line in lines:
        line.set_color({"as trained": "C3", "permutations": "C0", "the whole group": "C2"}[name])
    lines[0].set_label(f"{name} (distance {np.mean(distances[name]):.1f})")
axis.set(
    xlabel="from one network to another", ylabel="test loss", title="Barriers before and after alignment"
)
axis.set_ylim(0, 1.5 * max(np.max(found) for found in curves.values()))
axis.legend(frameon=False, loc="upper left")
plt.show()
