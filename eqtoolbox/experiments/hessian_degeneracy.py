"""Zero eigenvalues of the Hessian that symmetry promises at a stationary point, against the spectrum (EQ-5.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox import zoo
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.identities import second_order
from eqtoolbox.linalg import hvp_fn, spectral_density, to_dense, tree_norm
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import catalog, orbit_dimension

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("EQ-5.4",)
LAYERS = ("Dense_0", "Dense_1")
#: An eigenvalue counts as zero below this share of the largest.
ZERO = 1e-9
#: For Lanczos, which does not resolve as much.
SMALL = 1e-5


@dataclass(frozen=True)
class Config:
    """Networks of one hidden layer at minima of the squared loss.

    Attributes:
      activations: one small network with biases for each, on the 353 diabetes examples.
      width: of their hidden layer.
      outputs: their outputs.
      noise: deviation of the noise that is added to a teacher's outputs to make the targets.
      iterations: damped Newton steps from the teacher to the minimum.
      components: leading principal components of the digits that a linear autoencoder sees.
      code: its hidden units.
      probes: random vectors of its spectral density.
      lanczos: Lanczos steps for each.
      seed: of everything random.
    """

    activations: tuple[str, ...] = ("linear", "relu2", "radial", "tanh")
    width: int = 4
    outputs: int = 4
    noise: float = 0.02
    iterations: int = 30
    components: int = 32
    code: int = 12
    probes: int = 10
    lanczos: int = 60
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Finds minima, counts what symmetry promises there, and measures spectra."""
    nets = {}
    for activation in config.activations:
        store.progress.describe(f"minimum of the {activation} network")
        nets[activation] = store.once(activation, lambda a=activation: _small(config, a))
    store.progress.describe("spectral density of the larger network")
    return {"nets": nets, "large": store.once("large", lambda: _large(config))}


def _small(config: Config, activation: str) -> dict[str, Any]:
    """A student at a minimum close to its teacher, with all eigenvalues of the Hessian."""
    inputs = zoo.diabetes(dtype=jnp.float64).train_x
    module = zoo.MLP((config.width, config.outputs), activation)
    weights, noise = jax.random.split(jax.random.key(config.seed))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs[:1])["params"])
    draws = zoo.perturb(weights, jax.tree.map(lambda s: jnp.zeros(s.shape, inputs.dtype), shapes), scale=1.0)
    teacher = jax.tree.map(lambda w: w / np.sqrt(len(w)), draws)
    apply = _model(module, inputs)
    clean = apply(teacher)
    targets = clean + config.noise * jax.random.normal(noise, clean.shape)
    found = _measure(apply, targets, teacher, activation, config)
    return {"parameters": sum(w.size for w in jax.tree.leaves(teacher)), **found}


def _model(module: Any, inputs: Array) -> Callable[[Any], Array]:
    """The outputs of a Flax module as a function of its parameters."""
    return lambda params: module.apply({"params": params}, inputs)


def _measure(
    model: Callable[[Any], Array], targets: Array, teacher: Any, activation: str, config: Config
) -> dict[str, Any]:
    output_loss = lambda outputs: jnp.mean(jnp.sum((outputs - targets) ** 2, -1)) / 2  # noqa: E731
    start, unravel = ravel_pytree(teacher)
    minimum, values, slope = newton(lambda v: output_loss(model(unravel(v))), start, config.iterations)
    params = unravel(minimum)
    sym = catalog.mlp(params, LAYERS, activation)
    found = {"values": np.abs(values), "lowest": values.min(), "slope": slope, "promised": 0}
    if sym.is_discrete:
        return found
    found["promised"] = orbit_dimension(sym, params)
    direction = sym.sample_algebra(jax.random.key(1), jnp.float64)

    @jax.jit
    def along_orbit(params: Any) -> Array:
        identity = second_order(sym, model, output_loss, params, directions=direction)
        return tree_norm(identity.lhs) / tree_norm(sym.generator(direction, params))

    for name, at in (("flat", params), ("elsewhere", jax.tree.map(lambda w: 1.5 * w, params))):
        found[name] = float(along_orbit(at)) / np.abs(values).max()
    return found


def newton(loss: Callable[[Array], Array], start: Array, iterations: int) -> tuple[Array, np.ndarray, float]:
    """Damped Newton steps to a minimum, along any flat directions of it.

    A step divides by |eigenvalue| + μ; μ falls by 5 where the loss does not rise, else the step is taken back and
    μ grows by 5.

    Args:
      loss: a function of a flat vector.
      start: near a minimum.
      iterations: how many.

    Returns:
      The minimum, the eigenvalues of the Hessian there, and the norm of the gradient.
    """
    hessian = lambda v: to_dense(hvp_fn(loss, v), v)  # noqa: E731

    def step(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        v, damping = state
        values, vectors = jnp.linalg.eigh(hessian(v))
        new = v - vectors @ ((vectors.T @ jax.grad(loss)(v)) / (jnp.abs(values) + damping))
        good = loss(new) <= loss(v) + 1e-14
        return jnp.where(good, new, v), jnp.where(good, jnp.maximum(damping / 5, 1e-9), 5 * damping)

    @jax.jit
    def search(v: Array) -> tuple[Array, Array, Array]:
        v, _ = jax.lax.fori_loop(0, iterations, step, (v, jnp.asarray(1e-2, v.dtype)))
        return v, jnp.linalg.eigvalsh(hessian(v)), jnp.linalg.norm(jax.grad(loss)(v))

    minimum, values, slope = search(start)
    return minimum, np.asarray(values), float(slope)


def _large(config: Config) -> dict[str, Any]:
    """A linear autoencoder at its optimum, which is known; the density of its Hessian spectrum, and all of it."""
    images = np.asarray(zoo.digits(dtype=jnp.float64).train_x)
    _, scales, _ = np.linalg.svd(images - images.mean(0), full_matrices=False)
    # In principal components the covariance is diagonal: these few inputs have the same loss as all the digits.
    inputs = jnp.diag(jnp.asarray(scales[: config.components] / np.sqrt(len(images))))
    kernel = jnp.eye(config.components, config.code)
    params = {"Dense_0": {"kernel": kernel}, "Dense_1": {"kernel": kernel.T}}
    turn = catalog.mlp(params, LAYERS, "linear")
    params = turn.act(turn.sample(jax.random.key(config.seed), jnp.float64), params)
    apply = _model(zoo.MLP((config.code, config.components), "linear", use_bias=False), inputs)
    loss = lambda p: jnp.sum((apply(p) - inputs) ** 2) / 2  # noqa: E731
    size = sum(w.size for w in jax.tree.leaves(params))
    product = hvp_fn(loss, params)
    density = spectral_density(
        product,
        params,
        key=jax.random.key(config.seed),
        probes=config.probes,
        steps=min(config.lanczos, size),
    )
    nodes, weights = np.asarray(density.nodes), np.asarray(density.weights)
    shares = np.sum(np.where(np.abs(nodes) <= SMALL * np.abs(nodes).max(), weights, 0), axis=1)
    return {
        "parameters": size,
        "promised": orbit_dimension(turn, params),
        "slope": float(tree_norm(jax.grad(loss)(params))),
        "values": np.abs(np.linalg.eigvalsh(to_dense(product, params, batch_size=256))),
        "nodes": nodes,
        "weights": weights,
        "share": float(shares.mean()),
        "share_error": float(shares.std(ddof=1) / np.sqrt(len(shares))),
    }


def zeros(values: np.ndarray) -> int:
    """How many eigenvalues are zero to rounding."""
    return int(np.sum(values <= ZERO * values.max()))


def claims(result: Result) -> Sequence[Finding]:
    """At least as many zeros as promised, for some networks exactly as many; none without a continuous symmetry."""
    nets, large = result["nets"], result["large"]
    flat = max(net["flat"] for net in nets.values() if net["promised"])
    elsewhere = min(net["elsewhere"] for net in nets.values() if net["promised"])
    slope = max(large["slope"], *(net["slope"] for net in nets.values()))
    found = [
        at_most("The networks are at stationary points (largest norm of the gradient)", slope, 1e-10),
        at_most("∇²L X = 0 along the orbit at a minimum (‖∇²L X‖ of ‖∇²L‖‖X‖)", flat, 1e-9, claims=CLAIM),
        at_least("Away from it ∇²L X is not zero (the same at 1.5 θ)", elsewhere, 1e-4, claims=CLAIM),
    ]
    for name, net in nets.items():
        count, promised = zeros(net["values"]), net["promised"]
        if name in ("relu2", "radial"):
            statement = f"{name}: zero eigenvalues, as many as the orbit has dimensions"
            verdict = "verified" if count == promised else "refuted"
            found.append(Finding(statement, count, f"exactly {promised}", verdict, CLAIM))
        elif promised:
            found.append(at_least(f"{name}: zero eigenvalues", count, promised, claims=CLAIM))
        else:
            found.append(at_most(f"{name}, a discrete symmetry: zero eigenvalues", count, 0, claims=CLAIM))
    size = large["parameters"]
    return [
        *found,
        at_least(
            f"linear autoencoder of {size} parameters: zero eigenvalues",
            zeros(large["values"]),
            large["promised"],
            claims=CLAIM,
        ),
        at_most(
            "Lanczos quadrature, without a matrix, agrees on the share of zeros (difference, in standard errors)",
            abs(large["share"] - zeros(large["values"]) / size) / large["share_error"],
            4.0,
            claims=CLAIM,
        ),
    ]


def plot(result: Result) -> Figure:
    """Sorted eigenvalues with the promised numbers of zeros, and the density of the larger network."""
    nets, large = result["nets"], result["large"]
    figure, (left, right) = new_figure(2, height=3.6)
    left.set_title("Small networks: all eigenvalues")
    for (name, net), colour in zip(nets.items(), SERIES, strict=False):
        values = np.maximum(np.sort(net["values"]) / net["values"].max(), 1e-17)
        order = np.arange(1, len(values) + 1)
        left.plot(order, values, "o", ms=3, mew=0, color=colour, label=f"{name}, {net['promised']} promised")
        if net["promised"]:
            left.axvline(net["promised"] + 0.5, color=colour, lw=1.0, ls=(0, (4, 3)))
    left.set_xlabel("number of the eigenvalue")
    left.set_ylabel("|eigenvalue| / largest")
    right.set_title(f"Linear autoencoder, {large['parameters']} parameters")
    values = np.sort(large["values"]) / large["values"].max()
    grid = np.logspace(-9, 0, 400)
    right.plot(
        grid, np.searchsorted(values, grid, side="right") / len(values), color=INK, label="all eigenvalues"
    )
    nodes = np.abs(large["nodes"]) / large["values"].max()
    share = np.where(nodes[..., None] <= grid, large["weights"][..., None], 0).sum(1).mean(0)
    right.plot(grid, share, color=MUTED, lw=1.2, ls=(0, (1, 1)), label="Lanczos quadrature")
    right.axhline(
        large["promised"] / large["parameters"], color=SERIES[2], lw=1.0, ls=(0, (4, 3)), label="promised"
    )
    right.set_xscale("log")
    right.set_ylim(0, 1.03)
    right.set_xlabel("|eigenvalue| / largest")
    right.set_ylabel("share that is not above")
    left.set_yscale("log")
    left.set_ylim(1e-18, 3)
    for ax in (left, right):
        ax.minorticks_off()
    handles, names = zip(
        *[pair for ax in (left, right) for pair in zip(*ax.get_legend_handles_labels(), strict=True)],
        strict=True,
    )
    figure.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="hessian-degeneracy",
    title="Zero eigenvalues of the Hessian that symmetry promises",
    text=(
        "At a stationary point ∇²L X = 0 for every generator X of a symmetry: the Hessian has at least as many zero "
        "eigenvalues as the orbit has dimensions (the paper prints the number of parameters of the group, which is too "
        "many where some of them leave θ in place). Small networks are taken to a minimum near a noisy teacher by "
        "Newton's method, and all eigenvalues are computed. For squared ReLUs and for radial units nothing else is "
        "flat. The linear network has more zeros than its GL orbit has dimensions: its hidden biases can be moved into "
        "the output biases. tanh units have a discrete symmetry, and no zeros. For a larger linear "
        "autoencoder at its optimum, the leading principal components, stochastic Lanczos quadrature sees the same "
        "without any matrix."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(
        activations=("linear", "relu2", "radial", "tanh"),
        width=6,
        outputs=6,
        iterations=150,
        components=40,
        code=20,
        probes=40,
        lanczos=100,
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: eigenvalues of the Hessian at a minimum by size; a dashed line ends what symmetry promises to be zero. "
        "Right: the distribution of eigenvalues by size, from all of them and from Lanczos quadrature with random "
        "vectors; its step at zero must be at least as high as the dashed line."
    ),
    cost=(0.3, 0.7),
    x64=True,
)
