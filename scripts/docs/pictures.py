"""The pictures of the documentation, computed by the library: ``python scripts/docs/pictures.py [NAME ...]``.

Each is an SVG in pages/pictures/ without a colour scheme of its own: in a page it takes the page's colours, opened as a
file the light ones.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import eqtoolbox as eqt
from eqtoolbox.pages import GRID, INK, MUTED, SERIES, house_style, new_figure, show_matrix, to_svg

FOLDER = Path(__file__).parent / "pages" / "pictures"
COLOURS = {"ink": INK, "muted": MUTED, "grid": GRID, **{f"c{i}": colour for i, colour in enumerate(SERIES)}}
LARGEST = 100_000  # bytes
PICTURES = {}


def picture(columns=1, height=2.9):
    """Declares a function that paints axes as the picture of its name."""

    def declare(paint):
        PICTURES[paint.__name__] = (paint, columns, height)
        return paint

    return declare


def digits(count=None):
    data = eqt.zoo.digits()
    return jnp.asarray(data.train_x)[:count], jnp.asarray(data.train_y)[:count]


def descend(tx, loss, params, steps, *batches):
    """Trains in one program; ``loss(params, *batch)``."""

    @jax.jit
    def run(params):
        def step(carry, batch):
            params, state = carry
            grads = jax.grad(loss)(params, *batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), params

        return jax.lax.scan(step, (params, tx.init(params)), batches, length=steps)

    return run(params)


@picture(columns=2, height=3.1)
def first(figure, axes):
    sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.PositiveScaling(1)})

    def loss(p):
        return jnp.sum((p["v"] @ p["u"] - 1) ** 2)

    def place(v, u):
        return {"v": jnp.full((1, 1), v), "u": jnp.full((1, 1), u)}

    left, right = axes
    v, u = jnp.meshgrid(jnp.linspace(0.1, 3, 40), jnp.linspace(0.1, 3, 40))
    values = jax.vmap(jax.vmap(lambda v, u: loss(place(v, u))))(v, u)
    left.contour(v, u, jnp.log(values + 1e-3), levels=6, colors=MUTED, linewidths=0.5, linestyles="solid")
    for product in (0.3, 1.0, 2.2):
        t = jnp.linspace(-2, 2, 60)
        start = place(product**0.5, product**0.5)
        orbit = jax.vmap(lambda t, start=start: sym.act(sym.exp({"h": jnp.full(1, t)}), start))(t)
        left.plot(orbit["v"].ravel(), orbit["u"].ravel(), color=SERIES[0], lw=1.6)
        for t in (-0.5, 0.0, 0.5) if product != 1.0 else ():
            p = sym.act(sym.exp({"h": jnp.full(1, t)}), start)
            down = jax.tree.map(lambda g: -g, jax.grad(loss)(p))
            along = sym.generator({"h": jnp.ones(1)}, p)
            for arrow, colour in ((down, SERIES[2]), (along, SERIES[0])):
                vector = np.array([float(arrow["v"].squeeze()), float(arrow["u"].squeeze())])
                vector *= 0.42 / np.linalg.norm(vector)
                left.annotate(
                    "",
                    (float(p["v"].squeeze()) + vector[0], float(p["u"].squeeze()) + vector[1]),
                    (float(p["v"].squeeze()), float(p["u"].squeeze())),
                    arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
                )
    left.set(
        xlim=(0.1, 3),
        ylim=(0.1, 3),
        xlabel="v",
        ylabel="u",
        title="Orbits, steepest descent, generators",
        aspect="equal",
    )
    left.grid(visible=False)

    def charge(p):
        return eqt.noether.charge_fn(sym)(p)["h"].squeeze()

    starts = [(2.4, 1.0), (2.0, 0.1), (0.3, 0.3), (0.1, 2.0), (1.0, 2.4)]
    for colour, step, size, style in ((SERIES[0], 2000, 1e-3, "-"), (SERIES[2], 20, 0.1, "o")):
        for start in starts:
            _, path = descend(optax.sgd(size), loss, place(*start), step)
            time = size * np.arange(step)
            shown = slice(None, None, max(1, step // 50))
            right.plot(time[shown], jax.vmap(charge)(path)[shown], style, color=colour, lw=1.6, ms=2.2)
    right.plot([], [], color=SERIES[0], label="gradient flow")
    right.plot([], [], "o", ms=3, color=SERIES[2], label="descent, η = 0.1")
    right.set(xlabel="time", ylabel="charge v² − u²", title="The charge", ylim=(-6.5, 5.5))
    right.legend(loc="lower center", ncols=2)


@picture(columns=6, height=1.75)
def groups(figure, axes):
    g = eqt.groups
    for ax, group in zip(
        axes,
        (
            g.Permutation(8),
            g.SignedPermutation(8),
            g.PositiveScaling(8),
            g.Monomial(8, scales=1),
            g.Orthogonal(8),
            g.Wreath(g.GeneralLinear(2), g.Permutation(4)),
        ),
        strict=True,
    ):
        element = group.sample(jax.random.key(3))
        if len(group.sizes) == 2:
            matrix = group.act(element, jnp.eye(8).reshape(8, 4, 2), axis=(1, 2)).reshape(8, 8)
        else:
            matrix = group.act(element, jnp.eye(8))
        show_matrix(ax, np.asarray(matrix).T, [""], [8])
        ax.set_xticks([])
        ax.set_title(str(group).replace("₊^8", "₊⁸"), fontsize=8.5, loc="center", fontweight="normal")


@picture(columns=2)
def orbit(figure, axes):
    x, y = digits(256)
    module = eqt.zoo.MLP((16, 10), "relu")
    params = module.init(jax.random.key(0), x)["params"]
    sym = eqt.catalog.mlp(params, ["Dense_0", "Dense_1"], "relu")

    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": p}, x), y).mean()

    members = eqt.sample_orbit(sym, params, 200, key=jax.random.key(1))
    values = jax.jit(jax.vmap(loss))(members)
    norms = jax.jit(jax.vmap(lambda p: optax.tree.norm(jax.grad(loss)(p))))(members)
    left, right = axes
    left.plot(norms, values, ".", ms=3, color=SERIES[0])
    left.set(
        xlabel="norm of the gradient",
        ylabel="loss",
        ylim=(0, 2 * float(values.mean())),
        title="200 models of one orbit",
    )
    order = np.argsort(norms)[:: len(norms) // 9]
    few = jax.tree.map(lambda leaf: leaf[order], members)
    start = float(jnp.median(norms))
    runs = jax.jit(jax.vmap(lambda p: jax.vmap(loss)(descend(optax.sgd(0.05), loss, p, 100)[1])))(few)
    for i, run in enumerate(np.asarray(runs)):
        right.plot(run, color=SERIES[0], alpha=0.4 + 0.6 * float(norms[order[i]] > start), lw=1.1)
    right.set(
        xlabel="step of gradient descent", ylabel="loss", title="Ten of them, trained on", ylim=(0, None)
    )


@picture()
def spectrum(figure, axes):
    x, y = digits(300)
    module = eqt.zoo.MLP((8, 10), "tanh")
    params = module.init(jax.random.key(0), x)["params"]

    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": p}, x), y).mean()

    (params, _), _ = descend(optax.adam(1e-2), loss, params, 60)
    product = eqt.linalg.hvp_fn(loss, params)
    values = np.linalg.eigvalsh(np.asarray(jax.jit(lambda: eqt.linalg.to_dense(product, params))()))
    found = jax.jit(
        lambda: eqt.linalg.spectral_density(product, params, key=jax.random.key(1), probes=10, steps=40)
    )()
    width = (values[-1] - values[0]) / 120
    grid = jnp.linspace(values[0] - 4 * width, values[-1] + 4 * width, 500)
    density = eqt.linalg.density_at(found, grid, width)
    exact = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2).mean(1) / (width * np.sqrt(2 * np.pi))
    (ax,) = axes
    ax.semilogy(
        grid, np.maximum(exact, 1e-6), color=MUTED, lw=3, alpha=0.5, label=f"all {len(values)} eigenvalues"
    )
    ax.semilogy(
        grid,
        np.maximum(density.value, 1e-6),
        color=SERIES[2],
        lw=1.3,
        label="10 random vectors, 40 products each",
    )
    rug = np.stack([values, values, np.full(len(values), np.nan)], axis=1).ravel()
    ax.plot(rug, np.tile([1.3e-4, 2.2e-4, np.nan], len(values)), color=INK, lw=0.5)
    ax.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-4, None))
    ax.legend()


@picture(columns=2)
def identities(figure, axes):
    left, right = axes
    x, y = digits(128)
    module = eqt.zoo.MLP((8, 10), "relu")
    params = module.init(jax.random.key(0), x)["params"]
    sym = eqt.catalog.mlp(params, ["Dense_0", "Dense_1"], "relu")

    def model(p):
        return module.apply({"params": p}, x)

    def output_loss(out):
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    xi = sym.sample_algebra(jax.random.key(1))
    fast = jax.jit(lambda p: eqt.identities.hvp_along(sym, model, output_loss, p, direction=xi))(params)
    slow = jax.jit(lambda p: eqt.linalg.hvp(lambda p: output_loss(model(p)), p, sym.generator(xi, p)))(params)

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    some = np.random.default_rng(0).permutation(flat(slow).size)[:200]
    left.plot(flat(slow)[some], flat(fast)[some], ".", ms=3, color=SERIES[0])
    left.set(
        xlabel="Hessian-vector product",
        ylabel="by the identity",
        title=f"∇²L·X, {some.size} of {flat(slow).size} entries",
    )
    data = eqt.zoo.diabetes()
    x, y = jnp.asarray(data.train_x), jnp.asarray(data.train_y).reshape(-1, 1)
    net = eqt.zoo.MLP((6, 1), "relu", use_bias=False)

    def predict(p):
        return net.apply({"params": p}, x)

    def squared(out):
        return jnp.mean((out - y) ** 2) / 2

    def objective(p):
        return squared(predict(p))

    params = jax.tree.map(lambda w: 1.3 * w, net.init(jax.random.key(2), x)["params"])
    _, path = descend(optax.sgd(0.1), objective, params, 150)

    def top(p):
        return jnp.linalg.eigvalsh(eqt.linalg.to_dense(eqt.linalg.hvp_fn(objective, p), p))[-1]

    sharpness = jax.jit(lambda path: jax.lax.map(top, path))(path)
    bound = jax.jit(jax.vmap(lambda p: eqt.identities.sharpness_bound(predict, squared, p, 2)))(path)
    right.plot(sharpness, color=SERIES[0], label="largest eigenvalue")
    right.plot(bound, color=SERIES[2], label="lower bound, from the outputs")
    right.set(xlabel="step of gradient descent", title="A homogeneous network", ylim=(0, None))
    right.legend()


@picture(columns=2)
def charges(figure, axes):
    left, right = axes
    x, y = digits(300)
    module = eqt.zoo.MLP((8, 10), "relu")
    params = module.init(jax.random.key(0), x)["params"]
    sym = eqt.catalog.mlp(params, ["Dense_0", "Dense_1"], "relu")
    (space,) = sym.groups

    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": p}, x), y).mean()

    def charge(p):
        return eqt.noether.charge_fn(sym)(p)[space].ravel()

    for rate, colour in ((0.05, SERIES[0]), (0.25, SERIES[2])):
        tx = eqt.track_charges(optax.sgd(rate), sym, law=eqt.noether.Law(rate))

        @jax.jit
        def run(params, tx=tx):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(jax.grad(loss)(params), state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), (charge(params), eqt.noether.metrics(state))

            return jax.lax.scan(step, (params, tx.init(params)), length=300)[1]

        values, metrics = run(params)
        left.plot(values, color=colour, lw=1)
        left.plot([], [], color=colour, label=f"η = {rate:g}")
        size = float(jnp.linalg.norm(charge(params)))
        right.semilogy(metrics[f"drift/{space}"] / size, color=colour)
        right.semilogy(metrics[f"law/{space}"] / size + 1e-9, color=colour, ls=":")
    right.plot([], [], color=MUTED, label="change since the start")
    right.plot([], [], color=MUTED, ls=":", label="error of the law")
    left.set(xlabel="step", title="Charges of eight units")
    right.set(xlabel="step", title="Relative to their norm")
    left.legend(loc=(0.62, 0.1))
    right.legend(loc=(0.42, 0.52))


def tanh_gradients(count, seed=0):
    """Gradients of many networks (4, 5, 5, 2) at initialisation, on the same data, and their commutant."""
    module = eqt.zoo.MLP((5, 5, 2), "tanh")
    x = jax.random.normal(jax.random.key(1), (40, 4))
    target = jnp.sin(x @ jax.random.normal(jax.random.key(2), (4, 2)))

    def loss(p):
        return jnp.mean((module.apply({"params": p}, x) - target) ** 2)

    params = module.init(jax.random.key(0), x)["params"]
    sym = eqt.catalog.mlp(params, ["Dense_0", "Dense_1", "Dense_2"], "tanh")
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))
    grads = jax.jit(jax.vmap(lambda key: jax.grad(loss)(module.init(key, x)["params"])))(keys)
    return eqt.curvature.Commutant(sym, params), grads


@picture(columns=3, height=2.7)
def curvature(figure, axes):
    com, grads = tanh_gradients(20_000)
    rows = np.asarray(eqt.linalg.ravel_stack(grads), np.float64)
    gram = jax.jit(lambda stack: com.to_dense(com.gram(stack, axis=0)))
    truth = np.asarray(gram(jax.tree.map(lambda g: g[4000:], grads)), np.float64)
    few = slice(0, 25)
    names = [
        path.replace("Dense_", "").replace("kernel", "w").replace("bias", "b")
        for path in eqt.symmetry.leaf_paths(grads)
    ]
    sizes = [leaf[0].size for leaf in jax.tree.leaves(grads)]
    raw, projected = rows[few].T @ rows[few] / 25, np.asarray(gram(jax.tree.map(lambda g: g[few], grads)))
    for ax, matrix, title in ((axes[0], raw, "25 models"), (axes[1], projected, "projected")):
        limit = np.quantile(np.abs(projected), 0.99)
        show_matrix(ax, np.clip(matrix, -limit, limit), names, sizes)
        ax.set_title(title)
    counts = [25, 50, 100, 200, 400]
    errors = np.array(
        [
            [
                [
                    np.linalg.norm(m - truth) / np.linalg.norm(truth)
                    for m in (
                        rows[i * n : (i + 1) * n].T @ rows[i * n : (i + 1) * n] / n,
                        np.asarray(gram(jax.tree.map(lambda g, i=i, n=n: g[i * n : (i + 1) * n], grads))),
                    )
                ]
                for i in range(4000 // n)[:10]
            ]
            for n in counts
        ],
        dtype=object,
    )
    mean = np.array([np.mean(np.array(e, float), axis=0) for e in errors])
    for column, (colour, label) in enumerate(((SERIES[2], "as they are"), (SERIES[0], "projected"))):
        axes[2].loglog(counts, mean[:, column], "o-", ms=3, color=colour, label=label)
    axes[2].set(xlabel="models", title="Relative error")
    axes[2].set_xticks(counts, [str(n) for n in counts])
    axes[2].minorticks_off()
    axes[2].legend()


@picture()
def ensemble(figure, axes):
    com, grads = tanh_gradients(4096, seed=7)
    rows = np.asarray(eqt.linalg.ravel_stack(grads), np.float64)

    def square(stack):
        return com.norm(com.gram(stack, axis=0)) ** 2

    one = jax.jit(lambda stack: jax.lax.map(lambda g: com.norm(com.gram(g)) ** 2, stack))(grads)
    constant = np.mean(np.linalg.norm(rows, axis=1) ** 4 - np.asarray(one, np.float64))
    counts, found = 2 ** np.arange(3, 12), []
    for n in counts:
        parts = rows.reshape(-1, n, rows.shape[1])
        inside = jax.jit(lambda stacks: jax.lax.map(square, stacks))(
            jax.tree.map(lambda g, n=n: g.reshape(-1, n, *g.shape[1:]), grads)
        )
        distances = [
            np.linalg.norm(p.T @ p / n) ** 2 - d
            for p, d in zip(parts, np.asarray(inside, np.float64), strict=True)
        ]
        found.append((np.mean(distances), np.std(distances) / np.sqrt(max(len(distances) - 1, 1))))
    means, errors = np.array(found).T
    (ax,) = axes
    ax.plot(counts, constant / counts, color=MUTED, lw=1.2, label="prediction, from single gradients")
    ax.errorbar(counts, means, errors, fmt="o", ms=4, color=SERIES[0], label="measured")
    ax.set(xscale="log", yscale="log", xlabel="models", ylabel="‖M̂ − PM̂‖²")
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.legend()


@picture()
def mirror(figure, axes):
    from sklearn.linear_model import Lasso

    data = eqt.zoo.diabetes()
    x, y = np.asarray(data.train_x, np.float64), np.asarray(data.train_y, np.float64).ravel()
    x, y = x - x.mean(0), y - y.mean()
    strengths = np.geomspace(0.003, 0.3, 13)

    def loss(p):
        return jnp.mean((jnp.asarray(x, jnp.float32) @ p["w"] - jnp.asarray(y, jnp.float32)) ** 2) / 2

    @jax.jit
    @jax.vmap
    def train(strength):
        tx = eqt.dcs(
            optax.sgd(0.1, momentum=0.9), eqt.mirror.sparse(), strength=strength / 2, changed="ignore"
        )
        params = {"w": jnp.full(x.shape[1], 0.1)}

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=4000)[0][0]["w"]

    found = np.asarray(train(jnp.asarray(strengths, jnp.float32)))
    fine = np.geomspace(strengths[0], strengths[-1], 120)
    exact = np.array([Lasso(alpha=a, fit_intercept=False, max_iter=100_000).fit(x, y).coef_ for a in fine])
    (ax,) = axes
    for i in range(x.shape[1]):
        ax.plot(fine, exact[:, i], color=SERIES[i % 4], lw=1)
        ax.plot(strengths, found[:, i], "o", ms=3, color=SERIES[i % 4])
    ax.plot([], [], color=MUTED, label="lasso")
    ax.plot([], [], "o", ms=3, color=MUTED, label="dcs")
    ax.set(xscale="log", xlabel="strength of the L1 penalty", ylabel="coefficients")
    ax.legend()


@picture()
def orbits(figure, axes):
    x, y = digits(800)
    module = eqt.zoo.MLP((32, 32, 10), "relu")

    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(module.apply({"params": p}, x), y).mean()

    def train(seed):
        return descend(optax.adam(3e-3), loss, module.init(jax.random.key(seed), x)["params"], 200)[0][0]

    a, b = train(0), train(1)
    sym = eqt.catalog.mlp(a, ["Dense_0", "Dense_1", "Dense_2"], "relu")
    only = sym.subgroup({space: eqt.groups.Permutation(32) for space in sym.groups})
    (ax,) = axes
    for label, group, colour in (
        ("as trained", None, SERIES[2]),
        ("aligned by permutations", only, SERIES[3]),
        ("aligned by permutations and scalings", sym, SERIES[0]),
    ):
        other = b if group is None else jax.jit(lambda b, group=group: eqt.orbits.align(group, b, to=a)[0])(b)
        found = jax.jit(lambda other: eqt.orbits.barrier(loss, a, other, points=41))(other)
        ax.plot(found.times, found.losses, color=colour, label=label)
    ax.set(xlabel="from one network to the other", ylabel="training loss", ylim=(0, None))
    ax.legend()


@picture()
def discovery(figure, axes):
    params = {
        "u": jax.random.normal(jax.random.key(0), (3, 2)),
        "v": jax.random.normal(jax.random.key(1), (2, 1)),
    }
    apply, x = lambda p, x: x @ p["u"] @ p["v"], jax.random.normal(jax.random.key(2), (8, 3))
    found = eqt.discovery.null_space(
        eqt.discovery.linear_family(params), apply, params, x, key=jax.random.key(3)
    )
    values = np.maximum(np.asarray(found.spectrum, np.float64), 1e-12)
    rank = len(values) - found.dimension
    (ax,) = axes
    ax.semilogy(
        np.arange(rank), values[:rank], "o", ms=3.5, color=MUTED, label=f"{rank} that are no symmetry"
    )
    ax.semilogy(
        np.arange(rank, len(values)),
        values[rank:],
        "o",
        ms=4.5,
        color=SERIES[0],
        label=f"{found.dimension} symmetries",
    )
    ax.set(xlabel="direction in the family", ylabel="singular value")
    ax.legend(loc="lower left")


def save(name):
    """Computes one picture and writes it."""
    paint, columns, height = PICTURES[name]
    with house_style():
        figure, axes = new_figure(columns, height=height)
        paint(figure, axes)
        text = str(to_svg(figure, name, ""))
    text = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    for role, colour in COLOURS.items():
        text = text.replace(f"var(--{role})", f"var(--{role}, {colour})")
    text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    size = len(text.encode())
    if size > LARGEST:
        raise SystemExit(f"{name}: {size} bytes, at most {LARGEST} are allowed: draw fewer points")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.svg").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {size // 1000} kB")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(PICTURES)
    if unknown:
        raise SystemExit(f"no picture {sorted(unknown)}; there are {', '.join(PICTURES)}")
    for name in sys.argv[1:] or PICTURES:
        save(name)
