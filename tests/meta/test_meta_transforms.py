"""Every public transform of the foundation, identities, charges and curvature under vmap, pmap and shard_map.

A case is a function of one ensemble member. All cases of a room are one program, run member after member (`lax.map`),
under vmap, under pmap and under shard_map with one member on a device; the numbers are the same. A public function that
has no case is listed in `HOST` with the reason, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import inspect
import types
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from eqtoolbox import (
    Equivariance,
    Symmetry,
    curvature,
    discovery,
    groups,
    identities,
    linalg,
    mirror,
    noether,
    orbits,
    symmetry,
)
from eqtoolbox.groups import GeneralLinear, Monomial, Permutation

MEMBERS, WIDTH, EXAMPLES = 4, 2, 2
SHAPES = {"w1": (2, WIDTH), "b1": (WIDTH,), "w2": (WIDTH, 1)}
LINEAR = Symmetry({"w1": "_ h", "b1": "h", "w2": "h* _"}, {"h": GeneralLinear(WIDTH)})
RELU = Symmetry({"w1": "_ h", "b1": "h", "w2": "h{a:-1} _"}, {"h": Monomial(WIDTH, ("a",))})
UNITS = Symmetry({"w1": "_ h", "b1": "h", "w2": "h _"}, {"h": Permutation(WIDTH)})
COMMUTANT = curvature.Commutant(UNITS, {k: np.zeros(s) for k, s in SHAPES.items()})
ACTION = symmetry.DataDependentAction.mlp(
    {k: np.zeros(s) for k, s in SHAPES.items()}, [("w1", "b1"), "w2"], symmetry.batch_cocycle(jnp.tanh)
)
TAYLOR = Equivariance(
    lambda params, t: jax.tree.map(lambda w: w * jnp.exp(t), params), identity=jnp.zeros(())
)


class Member(NamedTuple):
    """What one member of an ensemble brings along."""

    key: Any
    params: Any
    other: Any  #: like the parameters
    samples: Any  #: as many of them as there are examples
    x: Any
    y: Any


def members() -> Member:
    rng = np.random.default_rng(0)

    def draw(*lead):
        return {k: rng.normal(size=(MEMBERS, *lead, *s)).astype(np.float32) for k, s in SHAPES.items()}

    x, y = rng.normal(size=(MEMBERS, EXAMPLES, 2)), rng.normal(size=(MEMBERS, EXAMPLES, 1))
    keys = jax.random.split(jax.random.key(0), MEMBERS)
    return Member(keys, draw(), draw(), draw(EXAMPLES), x.astype(np.float32), y.astype(np.float32))


def network(params, x):
    return (x @ params["w1"] + params["b1"][None]) @ params["w2"]


def batch_loss(params, batch):
    return jnp.mean((network(params, batch[0]) - batch[1]) ** 2)


def model(m):
    return lambda params: network(params, m.x)


def output_loss(m):
    return lambda outputs: jnp.mean((outputs - m.y) ** 2)


def loss(m):
    return lambda params: batch_loss(params, (m.x, m.y))


def folded(m, count):
    """Some keys of a member."""
    return [jax.random.fold_in(m.key, i) for i in range(count)]


def of_groups(m):
    """Methods of the groups; the other groups share them, or are reached by the methods of `Symmetry`."""
    out = {}
    for name, group in {
        "gl": GeneralLinear(2),
        "monomial": Monomial(2, ("a",)),
        "o": groups.Orthogonal(2),
    }.items():
        g, xi = group.sample(jax.random.fold_in(m.key, 1)), group.algebra_sample(jax.random.fold_in(m.key, 2))
        out[name] = {
            "act": group.act(g, m.x),
            "tangent": group.tangent(xi, m.x),
            "compose": group.compose(g, group.inverse(g)),
            "exp": group.exp(xi),
            "contains": group.contains(g),
            "log": group.log(group.exp(xi)),
            "identity": group.identity(),
            "algebra_zero": group.algebra_zero(),
        }
    gl = GeneralLinear(2)
    g = gl.with_inverse(gl.sample(jax.random.fold_in(m.key, 3)))
    out["with_inverse"] = gl.act(g, m.x, -1, -1)
    out["without_inverse"] = groups.without_inverse(g)
    return out


def of_symmetry(m):
    sym, f = LINEAR, model(m)
    keys = folded(m, 9)
    g, xi = sym.sample(keys[0]), sym.sample_algebra(keys[1])
    many = jax.vmap(sym.sample)(jax.random.split(keys[2], 2))
    inputs = jnp.stack([m.x, m.x + 1])
    tangent, transpose = sym.tangent_map(m.params)
    h, batch = ACTION.sample(keys[3]), ACTION.sample(keys[4])
    apply = lambda params, x: ACTION.apply(params, x)  # noqa: E731
    hs = jax.vmap(ACTION.sample)(jax.random.split(keys[5], 2))
    return {
        "act": sym.act(g, m.params),
        "act_dual": sym.act_dual(g, m.other),
        "compose": sym.compose(g, sym.inverse(g)),
        "inverse": sym.inverse(g),
        "contains": sym.contains(g),
        "exp": sym.exp(xi),
        "log": sym.log(sym.exp(xi)),
        "generator": sym.generator(xi, m.params),
        "identity": sym.identity(),
        "zero_algebra": sym.zero_algebra(),
        "pullback": sym.pullback(m.params, m.other),
        "sample": g,
        "sample_algebra": xi,
        "tangent_map": (tangent(xi), transpose(tangent(xi))),
        "with_inverse": sym.act(sym.with_inverse(g), m.params),
        "check": sym.check(m.params),
        "generator_matrix": symmetry.generator_matrix(sym, m.params),
        "lie_derivative": symmetry.lie_derivative(sym, f, m.params, xi),
        "sample_orbit": symmetry.sample_orbit(sym, m.params, 2, key=keys[6]),
        "split": symmetry.split(sym, m.params, m.other, max_iterations=20)[0].orbit,
        "symmetrize": symmetry.symmetrize(UNITS, lambda p: jnp.sum(jnp.sin(p["w1"]) * m.params["w1"]))(
            m.params
        ).value,
        "rotation": symmetry.rotation(m.x[0, :1]),
        "rotation_to": symmetry.rotation_to(m.x[0]),
        "inverse_rotation_to": symmetry.inverse_rotation_to(m.x[0]),
        "spherical_angles": symmetry.spherical_angles(m.x[0]),
        "functional_error": symmetry.functional_error(sym.act, network, m.params, m.x, many),
        "functional_loss_error": symmetry.functional_loss_error(
            sym.act, network, output_loss(m), m.params, m.x, many
        ),
        "distribution_error": symmetry.distribution_error(sym.act, network, m.params, m.x, many),
        "data_dependent_error": symmetry.data_dependent_error(ACTION.act, apply, m.params, inputs, hs),
        "definition_errors": tuple(
            symmetry.definition_errors(ACTION.act, apply, lambda y: jnp.sum(y**2, -1), m.params, inputs, hs)
        ),
        "DataDependentAction": {
            "act": ACTION.act(h, m.params, m.x),
            "compose": ACTION.compose(h, batch),
            "defined": ACTION.defined(h, m.params, m.x),
            "exp": ACTION.exp(ACTION.sample_algebra(keys[7])),
            "generator": ACTION.generator(ACTION.sample_algebra(keys[8]), m.params, m.x),
            "inverse": ACTION.inverse(h),
            "lipschitz_bound": ACTION.lipschitz_bound(h, m.params, m.x),
            "preactivations": ACTION.preactivations(m.params, m.x),
            "at": ACTION.at(m.x).act(m.params, ACTION.identity()),
        },
    }


def of_linalg(m):
    f, at = loss(m), m.params
    keys = folded(m, 9)
    product = linalg.hvp_fn(f, at)
    state = linalg.moments_update(linalg.moments_init(at), m.other)
    state = linalg.moments_update_batch(state, m.samples)
    twice = linalg.moments_merge(state, state)
    full = linalg.moments_update_batch(linalg.moments_init(at, covariance=True), m.samples)
    batch = (m.x, m.y)
    spectrum = linalg.spectral_density(product, at, key=keys[0], probes=2, steps=3)
    stack = linalg.random_stack(keys[1], at, 2)
    return {
        "hvp": linalg.hvp(f, at, m.other),
        "hvp_fn": product(m.other),
        "ggn_vp": linalg.ggn_vp(model(m), output_loss(m), at, m.other),
        "ggn_fn": linalg.ggn_fn(model(m), output_loss(m), at)(m.other),
        "fisher_vp": linalg.fisher_vp(batch_loss, at, batch, m.other),
        "gradient_covariance_vp": linalg.gradient_covariance_vp(batch_loss, at, batch, m.other),
        "per_example_grads": linalg.per_example_grads(batch_loss, at, batch),
        "per_example_losses": linalg.per_example_losses(batch_loss, at, batch),
        "per_example_vdot": linalg.per_example_vdot(batch_loss, at, batch, m.other),
        "weighted_grad": linalg.weighted_grad(batch_loss, at, batch, m.x[:, 0]),
        "basis": linalg.basis(at),
        "to_dense": linalg.to_dense(product, at),
        "lanczos": linalg.lanczos(product, at, 3, key=keys[2]).values,
        "top_eigenpairs": linalg.top_eigenpairs(product, at, 1, key=keys[3])[0].values,
        "numerical_rank": linalg.numerical_rank(m.x).singular_values,
        "operator_rank": linalg.operator_rank(product, at).singular_values,
        "rank_from_singular_values": linalg.rank_from_singular_values(jnp.sort(m.x[:, 0] ** 2)[::-1]).rank,
        "hutchinson_diagonal": linalg.hutchinson_diagonal(product, at, key=keys[4], samples=3),
        "hutchinson_trace": linalg.hutchinson_trace(product, at, key=keys[5], samples=3),
        "hutchpp_trace": linalg.hutchpp_trace(product, at, key=keys[6], samples=6),
        "slq_trace": linalg.slq_trace(jnp.abs, product, at, key=keys[7], probes=2, steps=3),
        "spectral_density": (spectrum.nodes, spectrum.weights),
        "density_at": linalg.density_at(spectrum, jnp.linspace(-1, 1, 3), 0.5),
        "moments_init": state,
        "moments_update": state,
        "moments_update_batch": state,
        "moments_merge": twice,
        "moments_mean": linalg.moments_mean(twice),
        "moments_estimate": linalg.moments_estimate(twice),
        "moments_standard_error": linalg.moments_standard_error(twice),
        "moments_variance": linalg.moments_variance(twice),
        "moments_covariance": linalg.moments_covariance(full),
        "orthonormalize": linalg.orthonormalize(m.samples)[1] ** 2,
        "random_like": linalg.random_like(keys[8], at),
        "random_stack": stack,
        "ravel_stack": linalg.ravel_stack(m.samples),
        "unravel_stack": linalg.unravel_stack(linalg.ravel_stack(m.samples), at),
        "stack_combine": linalg.stack_combine(m.x[:, 0], m.samples),
        "stack_vdot": linalg.stack_vdot(m.samples, m.other),
        "tree_norm": linalg.tree_norm(at),
        "tree_vdot": linalg.tree_vdot(at, m.other),
    }


def identity(found):
    return found.lhs, found.rhs, found.residual


def of_identities(m):
    f, out, at, keys = model(m), output_loss(m), m.params, folded(m, 3)
    xi, swap = LINEAR.sample_algebra(keys[0]), {"h": jnp.array([1, 0])}
    quiet = {"degree": 2.0}
    no_bias = lambda p: m.x @ p["w1"] @ p["w2"]  # noqa: E731
    return {
        "first_order": identity(identities.first_order(LINEAR, f, out, at, directions=xi)),
        "second_order": identity(identities.second_order(LINEAR, f, out, at, directions=xi)),
        "quadratic": identity(identities.quadratic(LINEAR, f, out, at, directions=xi)),
        "defects": tuple(identities.defects(LINEAR, f, out, at, directions=xi)),
        "hvp_along": identities.hvp_along(LINEAR, f, out, at, direction=xi),
        "characteristic_direction": identities.characteristic_direction(LINEAR, at, directions=xi).value,
        "characteristic_output": identities.characteristic_output(TAYLOR, f(at), jnp.zeros(())).value,
        "equivariance_error": identities.equivariance_error(LINEAR, f, at, LINEAR.zero_algebra()),
        "good_position": tuple(identities.good_position(LINEAR, at, f(at)).params),
        "discrete": identity(identities.discrete(UNITS, swap, f, out, at, directions=m.other).second),
        "mirror_blocks": tuple(identities.mirror_blocks(UNITS, swap, f, out, at, key=keys[1])),
        "project_fixed": identities.project_fixed(UNITS, swap, at),
        "homogeneity": identity(identities.homogeneity(no_bias, lambda y: jnp.mean(y**2), at, **quiet).euler),
        "homogeneous": identities.homogeneous(2.0).act(at, jnp.float32(0.1)),
        "radial_hvp": identities.radial_hvp(no_bias, lambda y: jnp.mean(y**2), at, **quiet),
        "sharpness_bound": identities.sharpness_bound(no_bias, lambda y: jnp.mean(y**2), at, **quiet),
        "alignment": tuple(
            identities.alignment(
                no_bias, lambda y: jnp.mean(y**2), at, 2.0, m.x[:, 0], linalg.orthonormalize(m.samples)[0]
            )
        )[1],
        "last_layer": identity(
            identities.last_layer(lambda y: jnp.mean(jnp.sin(y)), m.x, at["w1"], m.other["w1"])
        ),
        "softmax_variance": identities.softmax_variance(jax.nn.softmax(m.x), m.x),
    }


def of_noether(m):
    f, out, at, keys = model(m), output_loss(m), m.params, folded(m, 4)
    stack = jax.vmap(LINEAR.sample_algebra)(jax.random.split(jax.random.fold_in(m.key, 9), 2))
    law = noether.Law(0.1, momentum=0.9)
    law_state = noether.law_init(law, LINEAR, at)
    tracked = noether.track_charges(optax.sgd(0.1, momentum=0.9), LINEAR)
    observed = noether.observe_charges(LINEAR, observes="gradients")
    updates, state = tracked.update(m.other, tracked.init(at), at)
    charges = noether.charge_fn(LINEAR)(at)
    incoming, outgoing = at["w1"], at["w2"].T
    return {
        "charge_fn": charges,
        "act_on_charges": noether.act_on_charges(
            LINEAR.subgroup({"h": groups.Orthogonal(2)}),
            {"h": jnp.eye(2)},
            noether.charge_fn(LINEAR.subgroup({"h": groups.Orthogonal(2)}))(at),
        ),
        "charge_rate": noether.charge_rate(LINEAR, at, LINEAR.sample_algebra(keys[0])),
        "currents": noether.currents(LINEAR, at, m.other),
        "decayed": noether.decayed(LINEAR, charges, 0.1, 2.0),
        "drift": tuple(noether.drift(LINEAR, at, m.other)),
        "noise_drift": noether.noise_drift(LINEAR, m.samples),
        "flow_drift": noether.flow_drift(LINEAR, m.samples, 0.1),
        "flow_drift_by_trace": noether.flow_drift_by_trace(LINEAR, batch_loss, at, (m.x, m.y), 0.1),
        "flow_rate": noether.flow_rate(LINEAR, f, out, at, directions=LINEAR.sample_algebra(keys[1])),
        "friction_rates": tuple(noether.friction_rates(LINEAR, at, m.other, 0.5)),
        "one_step_expectation": noether.one_step_expectation(LINEAR, m.samples, 0.1, 2),
        "pairing": noether.pairing(LINEAR, at, m.other),
        "residual": noether.residual(LINEAR, at, m.other),
        "law_init": tuple(law_state),
        "law_step": tuple(noether.law_step(law, LINEAR, law_state, at, m.other)),
        "track_charges": (updates, state),
        "metrics": noether.metrics(state),
        "observe_charges": observed.update(m.other, observed.init(at), at),
        "asymmetry": noether.asymmetry(LINEAR, at, directions=stack, key=keys[3]),
        "field_charge_fn": noether.field_charge_fn(TAYLOR, direction=jnp.ones(()))(at),
        "activation_charge": noether.activation_charge(jnp.tanh, incoming, outgoing),
        "activation_integral": noether.activation_integral(jnp.tanh, incoming, nodes=8),
        "row_radial_charge": noether.row_radial_charge(lambda r: r, incoming, outgoing),
    }


def of_curvature(m):
    com, at, keys = COMMUTANT, m.params, folded(m, 3)
    blocks = com.gram(m.samples, axis=0)
    damped = jax.tree.map(jnp.add, blocks, com.identity())
    tx = curvature.scale_by_symmetry(UNITS)
    alias = curvature.symo(0.1, UNITS)
    newton = curvature.symmetry_gauss_newton(1.0, UNITS, products=2)
    functions = {"output_fn": model(m), "output_loss": output_loss(m)}
    return {
        "apply": com.apply(jnp.sqrt, damped),
        "coordinates": com.coordinates(m.other),
        "from_coordinates": com.from_coordinates(com.coordinates(m.other), m.other),
        "covariance": com.covariance(m.samples),
        "explained": com.explained(m.samples),
        "fisher": com.fisher(lambda p, x, y: batch_loss(p, (x[None], y[None])), at, m.x, m.y),
        "gauss_newton": com.gauss_newton(model(m), output_loss(m), at, keys[0], samples=2),
        "hessian": com.hessian(loss(m), at, keys[1], samples=2),
        "operator": com.operator(linalg.hvp_fn(loss(m), at), at, keys[2], samples=2),
        "gram": blocks,
        "identity": com.identity(),
        "invariant": com.invariant(m.other),
        "inverse": com.inverse(damped),
        "logdet": com.logdet(damped),
        "matvec": com.matvec(blocks, m.other),
        "mean": com.mean(m.samples),
        "norm": com.norm(blocks),
        "project": com.project(linalg.to_dense(linalg.hvp_fn(loss(m), at), at)),
        "shrink": com.shrink(blocks, EXAMPLES),
        "shrunk_gram": com.shrunk_gram(m.samples),
        "solve": com.solve(damped, m.other),
        "spectrum": com.spectrum(blocks).values,
        "to_dense": com.to_dense(blocks),
        "trace": com.trace(blocks),
        "check_blocks": com.check_blocks(blocks),
        "scale_by_symmetry": tx.update(m.other, tx.init(at), at),
        "symo": alias.update(m.other, alias.init(at), at),
        "symmetry_gauss_newton": newton.update(jax.grad(loss(m))(at), newton.init(at), at, **functions)[0],
    }


SWAP = mirror.of(UNITS, {k: np.zeros(s) for k, s in SHAPES.items()})[0]


def of_mirror(m):
    f, at, keys = loss(m), m.params, folded(m, 5)
    batches = (m.x[:, None], m.y[:, None])
    tx = mirror.dcs(optax.sgd(0.1), mirror.sparse(), 1e-3)
    form = mirror.reparametrize(network, mirror.low_rank("w1"))
    tracked = mirror.track_mirrors(optax.sgd(0.1), mirror.of(UNITS, at), every=1)
    updates, state = tracked.update(m.other, tracked.init(at), at)
    biased, shift = mirror.random_bias(at, 0.1, key=keys[0])
    return {
        "curvatures": mirror.curvatures(batch_loss, at, SWAP, batches, direction=SWAP.order(m.other)),
        "dcs": tx.update(m.other, tx.init(at), at),
        "correlation_blocks": mirror.correlation_blocks(m.x, 0.5),
        "dead_parameters": mirror.dead_parameters(m.other, 0.5),
        "dead_units": mirror.dead_units(LINEAR, at, "h", 0.5),
        "draw_batches": mirror.draw_batches(keys[2], (m.x, m.y), 2, 3),
        "effective_rank": mirror.effective_rank(m.x),
        "gd_weight_decay": mirror.gd_weight_decay(f, at, SWAP, key=keys[3]).weight_decay,
        "global_weight_decay": tuple(mirror.global_weight_decay(f, m.samples, SWAP)),
        "hessian_blocks": mirror.hessian_blocks(f, at, SWAP, key=keys[4]),
        "local_weight_decay": mirror.local_weight_decay(f, at, SWAP),
        "lyapunov": mirror.lyapunov(batch_loss, at, SWAP, batches),
        "merging_weight_decay": mirror.merging_weight_decay(UNITS, f, at, "h"),
        "mirror_metrics": mirror.mirror_metrics(state),
        "neural_collapse": mirror.neural_collapse(m.x, jnp.arange(EXAMPLES), EXAMPLES),
        "random_bias": (biased, shift(biased)),
        "rank_weight_decay": mirror.rank_weight_decay(LINEAR, f, at, "h"),
        "reparametrize": form.apply(form.init(at), m.x),
        "rescaling_weight_decay": mirror.rescaling_weight_decay(RELU, f, at, "h"),
        "satisfied": mirror.satisfied(mirror.of(UNITS, at), at, 0.5),
        "silent_units": mirror.silent_units(m.x, 0.5),
        "split_gradient": mirror.split_gradient(m.other, SWAP),
        "track_mirrors": (updates, state),
        "unit_norms": mirror.unit_norms(LINEAR, at, "h"),
    }


def of_orbits(m):
    f, at, keys = loss(m), m.params, folded(m, 6)
    xi, g = LINEAR.sample_algebra(keys[0]), LINEAR.sample(keys[1])
    many = jax.vmap(LINEAR.sample_algebra)(jax.random.split(keys[2], 2))
    gamma = orbits.curve(LINEAR, at, xi)
    velocity, acceleration = orbits.curve_derivatives(gamma)
    tx = orbits.teleport(optax.sgd(0.1), LINEAR, every=1, steps=2)
    return {
        "align": orbits.align(UNITS, m.other, to=at),
        "barrier": orbits.barrier(f, at, m.other, points=3),
        "barrier_along": orbits.barrier_along(f, gamma, points=3),
        "curvature": orbits.curvature(LINEAR, at, xi),
        "curvature_of": orbits.curvature_of(velocity, acceleration),
        "curve": gamma(0.5),
        "curve_curvature": orbits.curve_curvature(gamma),
        "curve_derivatives": (velocity, acceleration),
        "curve_directions": orbits.curve_directions(LINEAR, 2, key=keys[3]),
        "curve_to": orbits.curve_to(LINEAR, at, g)(0.5),
        "gradient_norm": orbits.gradient_norm(f, at),
        "hessian_top_eigenvalue": orbits.hessian_top_eigenvalue(f, at, key=keys[4]),
        "hessian_trace": orbits.hessian_trace(f, at, key=keys[5]),
        "interpolate": orbits.interpolate(at, m.other, 0.3),
        "match_weights": orbits.match_weights(RELU, m.other, to=at).after,
        "mean_curvature": orbits.mean_curvature(LINEAR, at, many),
        "orbit_curvature": orbits.orbit_curvature(f, at, sym=LINEAR),
        "orbit_derivatives": orbits.orbit_derivatives(LINEAR, at, xi),
        "parameter_norm": orbits.parameter_norm(f, at),
        "preconditioned_gradient_norm": orbits.preconditioned_gradient_norm(
            f, at, jax.tree.map(jnp.square, m.other)
        ),
        "quantisation_error": orbits.quantisation_error(f, at),
        "sharpness": orbits.sharpness(f, at),
        "teleport": tx.update(m.other, tx.init(at), at, value_fn=f),
        "teleport_as_printed": orbits.teleport_as_printed(LINEAR, f, at, steps=2, learning_rate=0.01)[0],
        "teleport_params": orbits.teleport_params(LINEAR, f, at, steps=2)[0],
        "weight_distance": orbits.weight_distance(at, m.other),
    }


def of_discovery(m):
    """The fields of families with their transposes, group laws, learned fields, lifts."""
    at, keys = m.params, folded(m, 5)
    families = {
        "affine_family": discovery.affine_family(at, ["w2"]),
        "axis_family": discovery.axis_family(at),
        "default_family": discovery.default_family(at, key=jax.random.key(0)),
        "direct_sum": discovery.direct_sum(LINEAR, discovery.axis_family(at, kind="skew")),
        "feature_family": discovery.feature_family(at, lambda p, x: x[0] * p["b1"], m.x, ["b1"]),
        "linear_family": discovery.linear_family(at, ["w1"]),
        "symmetry_family": discovery.symmetry_family(RELU),
        "translation_family": discovery.translation_family(at),
        "action_family": discovery.action_family(ACTION, at),
    }
    out = {
        name: (f.field(jnp.cos(jnp.arange(f.dimension)), at, m.x), f.pairing(at, m.other, m.x))
        for name, f in families.items()
    }
    h, k, theta = at["w1"], m.other["w1"], m.x[0]
    act = lambda g, p: jnp.arcsinh(g @ jnp.sinh(p))  # noqa: E731
    losses = lambda p, x: jnp.square(p * x - 1)[:1]  # noqa: E731
    net = discovery.init_mlp(keys[0], (8, 4, 2))
    field_net = discovery.init_mlp(keys[1], (4, 4, 4))
    fields = discovery.field_basis(field_net, losses, theta, m.x[1], 2)
    linear = lambda g, p, x: {**p, "w2": g * p["w2"]}  # noqa: E731
    parts = discovery.SubNetwork(
        ("w2",), lambda p, x: x @ p["w1"], lambda p, s: s @ p["w2"], lambda p, t, x: t + p["b1"][0]
    )
    g = m.y[0, 0]
    out |= {
        "additivity_residual": discovery.additivity_residual(act, h, k, theta),
        "bracket_residual": discovery.bracket_residual(act, h, k, theta),
        "flow_residual": discovery.flow_residual(act, h, theta, 0.3),
        "infinitesimal": discovery.infinitesimal(act, h, theta),
        "flow": discovery.flow(lambda p: jnp.sin(h @ p), theta, 1.0, 3),
        "level_set_field": discovery.level_set_field(lambda p: losses(p, m.x[1]), theta, m.x[1]),
        "orthogonality": discovery.orthogonality(m.samples["w1"]),
        "init_mlp": net,
        "printed_action": discovery.printed_action(net, m.x[1])(h, theta),
        "printed_terms": discovery.printed_terms(net, m.samples["w1"], losses, theta, m.x[1]),
        "field_basis": fields,
        "corrected_terms": discovery.corrected_terms(
            field_net, jnp.zeros((2, 2, 2)), losses, theta, m.x[1], 2
        ),
        "relative_invariance": discovery.relative_invariance(losses, m.samples["b1"], theta, m.x[1]),
        "lift_subnetwork": discovery.lift_subnetwork(linear, parts)(g, at, m.x),
        "lift_wider": discovery.lift_wider(linear, {"w2": 0}, [1])(g, at, m.x),
        "lift_deeper": discovery.lift_deeper(lambda g, p, x: g * p, [lambda p, x: x @ p] * 2, 1)(
            g, [at["w1"], at["w2"]], m.x
        ),
    }
    return out


ROOMS = {
    groups: of_groups,
    symmetry: of_symmetry,
    linalg: of_linalg,
    identities: of_identities,
    noether: of_noether,
    curvature: of_curvature,
    mirror: of_mirror,
    orbits: of_orbits,
    discovery: of_discovery,
}
#: Public functions that no array goes through, or that look at numbers on the host.
HOST = {
    groups: {"SignedPermutation": "makes a group"},
    symmetry: {
        "batch_cocycle": "makes a cocycle",
        "linear_cocycle": "makes a cocycle",
        "rotation_cocycle": "makes a cocycle",
        "pseudo_inverse_map": "makes a cocycle",
        "carry_state": "a rule by the class of a state: tests of the teleports",
        "check_symmetry": "reads types",
        "cut": "part of every action, with a plan",
        "join_blocks": "part of every action, with a plan",
        "elements": "all elements of a finite group, on the host",
        "is_masked": "reads types",
        "leaf_paths": "names",
        "locate": "names",
        "orbit_dimension": "decides a rank on the host",
        "present": "names",
    },
    linalg: {
        "broadcast_prefix": "structure of trees",
        "check_choice": "checks Python values",
        "check_integer": "checks Python numbers",
        "check_like": "checks shapes",
        "check_number": "checks Python numbers",
        "coarsest_dtype": "reads dtypes",
        "float64": "turns on float64 on the host",
        "cond": "as in jax.lax",
        "fori_loop": "as in jax.lax",
        "leading_size": "checks shapes",
        "linear_transpose": "as in jax",
        "moments_psum": "across devices by itself: tests of the moments",
        "name_leaf": "names",
        "rounding": "reads dtypes",
        "scan": "as in jax.lax",
        "to_float64": "turns on float64 on the host",
        "vary_with": "types of shard_map",
        "while_loop": "as in jax.lax",
    },
    identities: {"degeneracy": "decides a dimension on the host"},
    noether: {
        "charged": "reads the group",
        "charged_directions": "decides a rank on the host",
        "count_laws": "decides ranks on the host",
        "activation_charge_moments": "takes Python numbers",
        "charge_moments": "takes Python numbers",
    },
    curvature: {"interval": "makes a schedule", "memory": "makes a schedule"},
    mirror: {
        **dict.fromkeys(
            ("group_sparse", "linear", "low_rank", "merged", "sparse", "tied"), "makes a constraint"
        ),
        **dict.fromkeys(("direct_sum", "from_directions", "from_map", "of", "reflection"), "makes a mirror"),
        "approached": "reads a state on the host",
        "critical_learning_rate": "finds roots on the host",
        "optax_weight_decay": "takes a Python number",
        "phase_diagram": "loops over settings on the host",
        "prune": "shapes depend on values",
        "sgd_weight_decay": "finds roots on the host",
    },
    discovery: {
        **dict.fromkeys(
            ("audit", "lie_algebra", "novelty", "null_space", "null_spaces", "symmetry_course"),
            "decides a rank on the host",
        ),
        "learn": "a training loop of its own; its terms are cases",
        "lift_smaller_batch": "tries a padding on the host",
        "readable_basis": "on the host",
        "triangular_factor": "on the host",
    },
    orbits: {
        **dict.fromkeys(("booth", "ellipse", "quadratic", "rosenbrock"), "makes a loss"),
        "expected_distance": "takes numbers only",
        "feature_action": "makes an equivariance",
    },
}


def arrays(tree):
    """The leaves that are arrays; a key as its numbers."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array | np.ndarray)]
    return [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.asarray(x)
        for x in leaves
    ]


def of_member(room, member):
    return {name: arrays(found) for name, found in ROOMS[room](member).items()}


def public_functions(room) -> set[str]:
    """The functions that a room exports; for the curvature also the methods of the commutant."""
    functions = (types.FunctionType, type(jax.jit(abs)))
    names = {name for name in room.__all__ if isinstance(getattr(room, name), functions)}
    if room is curvature:
        methods = inspect.getmembers(curvature.Commutant, inspect.isfunction)
        names |= {name for name, _ in methods if not name.startswith("_")}
    return names


def assert_same(found, expected, kind):
    for name in expected:
        for a, b in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4, err_msg=f"{name} under {kind}")


#: The foundation, through which most of the other rooms reach their loops and transposes.
QUICK = (symmetry,)
NAMES = [room.__name__.rsplit(".", 1)[-1] for room in ROOMS]


@pytest.mark.parametrize(
    "room", [pytest.param(r, marks=[pytest.mark.slow] * (r not in QUICK)) for r in ROOMS], ids=NAMES
)
def test_every_transform_under_vmap_and_shard_map(room):
    mesh = jax.make_mesh(
        (MEMBERS,), ("member",), axis_types=(AxisType.Auto,), devices=jax.devices()[:MEMBERS]
    )
    spread = partial(jax.shard_map, mesh=mesh, in_specs=P("member"), out_specs=P("member"))
    one = partial(of_member, room)
    with jax.debug_key_reuse(False):  # the same members three times
        loop, together, sharded = jax.jit(
            lambda many: (jax.lax.map(one, many), jax.vmap(one)(many), spread(jax.vmap(one))(many))
        )(members())
    assert public_functions(room) - set(loop) == set(HOST[room])
    assert_same(together, loop, "vmap")
    assert_same(sharded, loop, "shard_map")


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS, ids=NAMES)
def test_every_transform_under_pmap(room):
    one = partial(of_member, room)
    with jax.debug_key_reuse(False):
        expected = jax.jit(partial(jax.lax.map, one))(members())
    assert_same(jax.pmap(one)(members()), expected, "pmap")
