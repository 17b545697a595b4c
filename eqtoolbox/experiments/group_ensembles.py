"""Ensembles made from one trained network by a group action, and attacks on them (DA-X7, DA-X8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import DataDependentAction, pseudo_inverse_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY, ATTACKS, PIECES = ("DA-X7",), ("DA-X8",), ("DA-T32",)
LAYERS = (("hidden/kernel", "hidden/bias"), ("out/kernel", "out/bias"))
KINDS = ("group", "permutation", "inverse", "random", "shuffle")
#: Those that are attacked: the last one guesses.
ATTACKED = KINDS[:-1]
Params = Any


@dataclass(frozen=True)
class Config:
    """A convolution, a hidden layer and an output layer, on images with pixels in [-½, ½].

    Attributes:
      data: "digits", or "cifar10" from local files (the environment variable EQTOOLBOX_DATA).
      channels: of the convolution.
      hidden: h, units of the hidden layer; as many training images fix the members.
      epochs: of Adam.
      batch: examples of a step.
      images: held out, at most.
      members: numbers of members.
      scales: ε of g = exp(εT).
      strengths: of FGSM, in units of the pixel range.
      radius: of PGD.
      step: of PGD.
      iterations: of PGD.
      attacked: ε of the members that are attacked.
      seed: of everything random.
    """

    data: str = "digits"
    channels: int = 8
    hidden: int = 16
    epochs: int = 20
    batch: int = 32
    images: int = 1000
    members: tuple[int, ...] = (1, 5, 15, 40)
    scales: tuple[float, ...] = (1e-4, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
    strengths: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2)
    radius: float = 0.2
    step: float = 0.04
    iterations: tuple[int, ...] = (0, 1, 2, 4, 8)
    attacked: float = 1.0
    seed: int = 0


def activation(x: Array) -> Array:
    """LeakyReLU of slope 0.1."""
    return jax.nn.leaky_relu(x, 0.1)


def features(params: Params, images: Array) -> Array:
    """Convolution, activation, maximum over 2 x 2, flattened."""
    kernel = params["conv"]["kernel"].astype(images.dtype)
    x = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = activation(x + params["conv"]["bias"].astype(images.dtype)[None, None, None])
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4)).reshape(n, -1)


def head(params: Params, x: Array) -> Array:
    """The hidden layer and the logits."""
    z = activation(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return z @ params["out"]["kernel"] + params["out"]["bias"][None]


def run(config: Config, store: Store) -> Result:
    """Trains one network, makes ensembles of it, and attacks them."""
    train, test = _data(config)
    store.progress.describe("training")
    params = store.once("params", lambda: _train(config, *train))
    params = jax.tree.map(jnp.asarray, params)
    store.progress.describe("accuracy of ensembles")
    votes = store.once("accuracy", lambda: _accuracy(config, params, train, test))
    store.progress.describe("attacks")
    return {**votes, **store.once("attacks", lambda: _attack(config, params, train, test))}


def _data(config: Config) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Training and held-out images with pixels in [-½, ½], and labels."""
    if config.data == "digits":
        data = zoo.digits(image=True)
        low, high = data.train_x.min(), data.train_x.max()
    elif config.data == "cifar10":
        try:
            data = zoo.cifar10(standardise=False)
        except FileNotFoundError as error:
            raise ExperimentError(str(error)) from error
        low, high = jnp.float32(0), jnp.float32(1)
    else:
        raise ExperimentError(f"data must be 'digits' or 'cifar10', got {config.data!r}")
    scale = lambda x: jnp.clip((x - low) / (high - low), 0, 1) - 0.5  # noqa: E731
    held = slice(0, config.images)
    return (scale(data.train_x), data.train_y), (scale(data.test_x[held]), data.test_y[held])


def _train(config: Config, images: Array, labels: Array) -> Params:
    keys = jax.random.split(jax.random.key(config.seed), 4)
    normal = jax.nn.initializers.he_normal()
    size = images.shape[1] * images.shape[2] // 4 * config.channels
    params = {
        "conv": {
            "kernel": normal(keys[0], (3, 3, images.shape[-1], config.channels), jnp.float32),
            "bias": jnp.zeros(config.channels, jnp.float32),
        },
        "hidden": {
            "kernel": normal(keys[1], (size, config.hidden), jnp.float32),
            "bias": jnp.zeros(config.hidden, jnp.float32),
        },
        "out": {
            "kernel": normal(keys[2], (config.hidden, 10), jnp.float32),
            "bias": jnp.zeros(10, jnp.float32),
        },
    }
    optimizer = optax.adam(1e-3)
    steps = len(images) // config.batch

    def loss(p: Params, rows: Array) -> Array:
        logits = head(p, features(p, images[rows]))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]))

    def step(state: Any, rows: Array) -> tuple[Any, None]:
        p, inner = state
        updates, inner = optimizer.update(jax.grad(loss)(p, rows), inner, p)
        return (optax.apply_updates(p, updates), inner), None

    rng = np.random.default_rng(config.seed)
    state = params, optimizer.init(params)
    epoch = jax.jit(lambda state, rows: jax.lax.scan(step, state, rows)[0])
    for _ in range(config.epochs):
        state = epoch(
            state, jnp.asarray(rng.permutation(len(images))[: steps * config.batch].reshape(steps, -1))
        )
    return jax.device_get(state[0])


def make_members(kind: str, key: Array, scale: Array, params: Params, stored: Array, count: int) -> Params:
    """Heads that are meant to do the same as the trained one, stacked.

    Args:
      kind: "group": (U π(g, H), gV) with π = σ(H)σ(gH)⁺ at stored examples; and, for comparison, "shuffle": with
        the rows of π permuted; "inverse": (U g⁻¹, gV); "random": (U g', gV) with g' = 1 + εD, D diagonal;
        "permutation": "inverse" with g between the identity and a permutation.
      key: a typed key.
      scale: ε.
      params: the trained head.
      stored: features of h training images.
      count: how many.

    Returns:
      Heads with a leading axis.
    """
    h = params["hidden"]["bias"].shape[0]
    action = DataDependentAction.mlp(params, LAYERS, pseudo_inverse_map(activation))

    def one(key: Array) -> Params:
        first, second, third = jax.random.split(key, 3)
        g = jax.scipy.linalg.expm(scale * jax.random.normal(first, (h, h), stored.dtype) / np.sqrt(h))
        order = jax.random.permutation(second, h)
        if kind in ("group", "shuffle"):
            kernel = params["out"]["kernel"]
            out = {**params["out"], "kernel": kernel[order] if kind == "shuffle" else kernel}
            return action.act({"h1": g}, {**params, "out": out}, stored)
        if kind == "permutation":
            swap = jnp.eye(h, dtype=stored.dtype)[order]
            g = (jnp.eye(h, dtype=stored.dtype) + scale / 2 * (jnp.eye(h, dtype=stored.dtype) + swap)) / (
                1 + scale
            )
        diagonal = jax.random.normal(third, (h,), stored.dtype) if kind == "random" else None
        hidden = {"kernel": params["hidden"]["kernel"] @ g.T, "bias": g @ params["hidden"]["bias"]}
        if diagonal is not None:
            kernel = (1 + scale * diagonal)[:, None] * params["out"]["kernel"]
        else:
            kernel = jnp.linalg.solve(g.T, params["out"]["kernel"])
        return {"hidden": hidden, "out": {**params["out"], "kernel": kernel}}

    return jax.vmap(one)(jax.random.split(key, count))


def vote(logits: Array) -> Array:
    """The class that most members choose; logits of shape (members, examples, classes)."""
    return jnp.argmax(jnp.sum(jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1]), 0), -1)


def _wide(params: Params) -> tuple[Params, Params]:
    """The convolution and the head in float64."""
    wide = jax.tree.map(lambda w: w.astype(jnp.float64), params)
    return wide, {name: wide[name] for name in ("hidden", "out")}


def _stored(config: Config, params: Params, train: tuple[Array, Array]) -> Array:
    """Features of the h training images that fix the members."""
    return features(params, train[0][: config.hidden].astype(jnp.float64))


def _accuracy(config: Config, params: Params, train: Any, test: Any) -> dict[str, Any]:
    """Accuracy by kind, number of members and scale; and how exact members are on the stored images."""
    params, own = _wide(params)
    stored, seen = _stored(config, params, train), features(params, test[0].astype(jnp.float64))
    most = max(config.members)

    def measure(kind: str) -> Callable[[Array, Array], tuple[Array, Array]]:
        @jax.jit
        def one(key: Array, scale: Array) -> tuple[Array, Array]:
            members = make_members(kind, key, scale, own, stored, most)
            logits = jax.vmap(lambda m: head(m, seen))(members)
            right = jnp.stack([jnp.mean(vote(logits[:n]) == test[1]) for n in config.members])
            there = jax.vmap(lambda m: head(m, stored))(members)
            return right, jnp.max(jnp.abs(there - head(own, stored)[None])) / jnp.max(jnp.abs(there))

        return one

    table, exact = [], []
    for i, kind in enumerate(KINDS):
        one = measure(kind)
        keys = [jax.random.key(config.seed + 1000 * (i + 1) + j) for j in range(len(config.scales))]
        rows = [jax.device_get(one(k, jnp.asarray(s))) for k, s in zip(keys, config.scales, strict=True)]
        table.append(np.stack([right for right, _ in rows]))
        exact.append([float(error) for _, error in rows])
    return {
        "single": float(jnp.mean(jnp.argmax(head(own, seen), -1) == test[1])),
        "accuracy": np.stack(table),
        "exact": np.array(exact),
        "scales": np.array(config.scales),
        "members": np.array(config.members),
        "images": len(test[1]),
    }


def _attack(config: Config, params: Params, train: Any, test: Any) -> dict[str, Any]:
    """Accuracies under attacks on the single network, which are transferred, and under the strongest of three.

    An ensemble that knows of no attack hides its gradient where its members are sure of themselves. So an image
    counts as withstood only if neither the transferred attack nor those on the mean probability and on the mean
    loss of the members fool the vote.
    """
    params, own = _wide(params)
    stored, count = _stored(config, params, train), max(config.members)
    images, labels = test[0].astype(jnp.float64), test[1]
    rows = jnp.arange(len(labels))

    def logits_of(members: Params, x: Array) -> Array:
        seen = features(params, x)
        return jax.vmap(lambda m: head(m, seen))(members)

    def mean_probability(logits: Array) -> Array:
        return jnp.log(jnp.mean(jax.nn.softmax(logits, -1), 0)[rows, labels] + 1e-300)

    def mean_loss(logits: Array) -> Array:
        return jnp.mean(jax.nn.log_softmax(logits, -1), 0)[rows, labels]

    clamp = lambda x: jnp.clip(x, -0.5, 0.5)  # noqa: E731
    noise = jax.random.uniform(jax.random.key(config.seed + 7), images.shape, jnp.float64, -1.0, 1.0)
    begin = clamp(images + config.radius * noise)

    def attack(score: Callable[[Array], Array]) -> Callable[[Params], tuple[Array, Array]]:
        """The images of FGSM by strength, and of PGD by iterations."""

        def attacked(members: Params) -> tuple[Array, Array]:
            slope = jax.grad(lambda x: -jnp.sum(score(logits_of(members, x))))
            sign = jnp.sign(slope(images))
            fgsm = jnp.stack([clamp(images + strength * sign) for strength in config.strengths])

            def iterate(x: Array, _: None) -> tuple[Array, Array]:
                ahead = x + config.step * jnp.sign(slope(x))
                return clamp(images + jnp.clip(ahead - images, -config.radius, config.radius)), x

            _, path = jax.lax.scan(iterate, begin, None, length=max(config.iterations) + 1)
            return fgsm, path[jnp.asarray(config.iterations)]

        return jax.jit(attacked)

    @jax.jit
    def withstood(members: Params, stack: Array) -> Array:
        return jax.lax.map(lambda x: vote(logits_of(members, x)) == labels, stack)

    on_probability, on_loss = attack(mean_probability), attack(mean_loss)
    single = jax.tree.map(lambda w: w[None], own)
    targets = {"single": single}
    for i, kind in enumerate(ATTACKED):
        key = jax.random.key(config.seed + 100 + i)
        targets[kind] = make_members(kind, key, jnp.asarray(config.attacked), own, stored, count)
    transferred = on_loss(single)
    found: dict[str, Any] = {"fgsm": {}, "pgd": {}, "strongest_fgsm": {}, "strongest_pgd": {}}
    for name, members in targets.items():
        tried = (
            [transferred] if name == "single" else [transferred, on_probability(members), on_loss(members)]
        )
        for k, which in enumerate(("fgsm", "pgd")):
            kept = np.stack([np.asarray(withstood(members, images[k])) for images in tried])
            found[which][name] = kept[0].mean(-1)
            found[f"strongest_{which}"][name] = kept.all(0).mean(-1)
    return {
        **found,
        "clamped": float(jnp.mean(withstood(single, jnp.clip(images, 0, 1)[None]))),
        "strengths": np.array(config.strengths),
        "iterations": np.array(config.iterations),
        "attacked": config.attacked,
    }


def claims(result: Result) -> Sequence[Finding]:
    """What the ensembles keep, and what they do not protect from."""
    single, scales = result["single"], result["scales"]
    error = float(np.sqrt(single * (1 - single) / result["images"]))
    drop = {kind: single - a[:, -1] for kind, a in zip(KINDS, result["accuracy"], strict=True)}
    small, large = scales <= 0.1, scales >= 1
    found = [
        at_most(
            "Group members agree with the network on the h images that fix them, for ε up to 3 (relative error)",
            float(result["exact"][0][scales <= 3].max()),
            1e-4,
            claims=PIECES,
        ),
        at_most(
            "For ε → 0 the group ensemble is the network (difference of accuracy)",
            float(np.abs(drop["group"][scales.argmin()])),
            2e-3,
            claims=PIECES,
        ),
        at_most(
            "For small ε it keeps the accuracy (largest loss)",
            float(drop["group"][small].max()),
            0.02,
            claims=ACCURACY,
        ),
    ]
    worst = float(drop["group"][large].mean())
    for kind in KINDS[1:]:
        known = "refuted" if kind == "permutation" else "verified"
        found.append(
            at_most(
                f"For large ε the group ensemble loses less than '{kind}' (mean loss of accuracy)",
                worst,
                float(drop[kind][large].mean()),
                claims=ACCURACY,
                anticipated=known,
            )
        )
    mean = lambda which, name: float(np.mean(result[which][name][1:]))  # noqa: E731
    others = max(mean("fgsm", kind) for kind in ATTACKED[1:])
    gap = lambda which: mean(which, "group") - mean(which, "single")  # noqa: E731
    return [
        *found,
        at_least(
            "FGSM on the single network: the group ensemble is above the other ensembles (mean over strengths)",
            mean("fgsm", "group"),
            others,
            claims=ATTACKS,
        ),
        at_most(
            "PGD on the single network: it changes little (difference from the network, mean over iterations)",
            abs(gap("pgd")),
            0.1,
            error=error,
            claims=ATTACKS,
        ),
        at_most(
            "Attacks that know the ensemble: it is no better than the network (FGSM, difference, mean)",
            gap("strongest_fgsm"),
            0.05,
            error=error,
        ),
        at_most(
            "Attacks that know the ensemble: it is no better than the network (PGD, difference, mean)",
            gap("strongest_pgd"),
            0.05,
            error=error,
        ),
        at_least(
            "Clipping to [0, 1] where pixels are in [−½, ½] costs accuracy without any attack (loss)",
            single - result["clamped"],
            0.1,
        ),
    ]


def plot(result: Result) -> Figure:
    """Accuracy by scale for all ensembles, and under attacks, transferred and the strongest."""
    figure, (left, middle, right) = new_figure(3, height=3.6)
    colours = {"single": INK, **dict(zip(KINDS, (*SERIES, MUTED), strict=False))}
    for kind, table in zip(KINDS, result["accuracy"], strict=True):
        left.plot(result["scales"], table[:, -1], "o-", ms=3, lw=1.2, color=colours[kind], label=kind)
    left.plot(
        result["scales"],
        result["accuracy"][0][:, 0],
        ":",
        lw=1.2,
        color=colours["group"],
        label="one member of group",
    )
    left.axhline(result["single"], color=INK, lw=0.9, ls=(0, (4, 3)))
    left.set_xscale("log")
    left.minorticks_off()
    left.set_title(f"{result['members'][-1]} members")
    left.set_xlabel("scale ε of the group elements")
    left.set_ylabel("accuracy")
    for ax, which, x in ((middle, "fgsm", result["strengths"]), (right, "pgd", result["iterations"])):
        for name, values in result[which].items():
            ax.plot(x, values, "-", lw=1.2, color=colours[name], label=name)
            ax.plot(x, result[f"strongest_{which}"][name], ":", lw=1.4, color=colours[name])
        ax.set_title("FGSM" if which == "fgsm" else "PGD")
    middle.set_xlabel("strength")
    right.set_xlabel("iterations")
    for ax in (left, middle, right):
        ax.set_ylim(0, 1.02)
    handles, names = left.get_legend_handles_labels()
    more, last = middle.get_legend_handles_labels()
    figure.legend(handles + more[:1], names + last[:1], loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="group-ensembles",
    title="Ensembles made from one network by a group action, and attacks on them",
    text=(
        "One trained network gives an ensemble: members (U π(g, H), gV) with random g = exp(εT) and π chosen such that "
        "they agree with it on as many stored images as it has hidden units, and vote. For small ε nothing is lost; "
        "for large ones the vote of many members holds up where a single member does not, better than (U g⁻¹, gV), "
        "which ignores the activation, and than random diagonals. Permutations interpolated with the identity stay "
        "bounded for all ε and lose less. Under attacks that were made for the single network the ensemble seems "
        "somewhat more robust. An image counts as withstood here only if attacks that know the ensemble fail, too, and "
        "then it is no better than the network."
    ),
    claim_ids=ACCURACY + ATTACKS + PIECES,
    quick=Config(),
    full=Config(
        data="cifar10",
        channels=32,
        epochs=10,
        members=(1, 5, 20, 80),
        strengths=(0.0, 0.003, 0.006, 0.009, 0.012),
        radius=0.03,
        step=0.006,
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: accuracy of ensembles on held-out images; the dashed line is the network. Middle and right: accuracy "
        "under attacks made for the network (solid) and under the strongest of three, two of which know the ensemble "
        "(dotted)."
    ),
    cost=(0.8, 20.0),
    x64=True,
)
