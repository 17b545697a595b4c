"""`DataDependentAction`: groups that act on the parameters of an MLP in a way that depends on the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from eqtoolbox.groups import GeneralLinear, Group
from eqtoolbox.symmetry._cocycles import Cocycle, Laws
from eqtoolbox.symmetry._equivariance import Equivariance
from eqtoolbox.symmetry._paths import flatten, locate

Element = Any  # a dict: hidden space -> element of its group
Vector = Any  # a dict: hidden space -> algebra vector
Params = Any

_HIGHEST = lax.Precision.HIGHEST


class Hidden(NamedTuple):
    """One hidden layer: the name of its space, the group that acts on it, and how its features follow."""

    space: str
    group: Group
    cocycle: Cocycle


@jax.tree_util.register_static
@dataclass(frozen=True, init=False)
class DataDependentAction:
    """A product of groups, one per hidden layer, acting on (parameters, data) and leaving the data alone.

    With Z_i the pre-activations of hidden layer i on the data X, g_0 = g_L = 1 and Z_i -> g_i Z_i,

        W_i -> g_i W_i c_{i-1}(g_{i-1}, Z_{i-1})^-1,    b_i -> g_i b_i,

    where c_i is a ``Cocycle``. The outputs at X are preserved, those elsewhere usually not. Weights are as in
    Flax: ``y = x @ kernel + bias``, kernel of shape (in, out), samples as rows; the W of the formula is the
    kernel transposed.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox.symmetry import DataDependentAction, rotation_cocycle
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> params = {"in": jax.random.normal(keys[0], (3, 5)), "out": jax.random.normal(keys[1], (5, 2))}
    >>> action = DataDependentAction.mlp(params, ["in", "out"], rotation_cocycle(jnp.tanh))
    >>> print(action)
    data-dependent action of dimension 25
    space  group  cocycle   pre-activations of
    h1     GL(5)  rotation  in
    >>> x = jax.random.normal(keys[2], (3,))
    >>> moved = action.act(action.sample(keys[3]), params, x)
    >>> bool(jnp.allclose(action.apply(moved, x), action.apply(params, x), atol=1e-4))
    True
    >>> bool(jnp.allclose(action.apply(moved, x + 1), action.apply(params, x + 1), atol=1e-4))
    False

    Elements and algebra vectors are dicts keyed by hidden space, as those of ``Symmetry``; the object is
    static and hashable, and all its methods work under ``jit``, ``vmap`` and ``grad``. Where a cocycle is not
    defined (sigma(Z) = 0 for one sample, or of deficient rank for more) the outgoing kernel is NaN:
    ``defined`` tells.

    Attributes:
      layers: pairs (path of the kernel, path of the bias or None), in the order of the data.
      hidden: one ``Hidden`` per layer but the last.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Definition 1.3.3, Theorems 2.4.1 and A.3.4, Proposition
      A.3.5. The printed A.3.5 has sigma_i for sigma_{i-1} and lets i run to L - 1 instead of L.
    """

    layers: tuple[tuple[str, str | None], ...]
    hidden: tuple[Hidden, ...]

    def __init__(
        self,
        layers: Sequence[str | tuple[str, str | None]],
        groups: Mapping[str, Group],
        cocycles: Cocycle | Mapping[str, Cocycle],
    ):
        """Describes the network, and what acts on it.

        Args:
          layers: the paths of each layer in the order of the data, ``("Dense_0/kernel", "Dense_0/bias")``; a
            path alone is a kernel without a bias.
          groups: the group of each hidden space, in the order of the data; its exponent-1 representation
            moves the pre-activations.
          cocycles: the cocycle of every hidden space, or of each.

        Raises:
          TypeError: a group is not a linear group on one space, or a cocycle not a ``Cocycle``.
          ValueError: the numbers of layers, groups and cocycles do not fit.
        """
        pairs = tuple((x, None) if isinstance(x, str) else (x[0], x[1]) for x in layers)
        if len(pairs) < 2 or len(groups) != len(pairs) - 1:
            raise ValueError(
                f"a network of L >= 2 layers has L - 1 hidden spaces, got {len(pairs)} layers and "
                f"the spaces {list(groups)}"
            )
        each = dict.fromkeys(groups, cocycles) if isinstance(cocycles, Cocycle) else dict(cocycles)
        if set(each) != set(groups):
            raise ValueError(f"the cocycles are of the spaces {sorted(each)}, the groups of {sorted(groups)}")
        hidden = []
        for space, group in groups.items():
            if not isinstance(group, Group) or len(group.sizes) != 1 or not group.is_linear:
                raise TypeError(f"the group of {space!r} must be linear and on one space, got {group}")
            if not isinstance(each[space], Cocycle):
                raise TypeError(f"the cocycle of {space!r} must be a Cocycle, got {each[space]!r}")
            hidden.append(Hidden(space, group, each[space]))
        object.__setattr__(self, "layers", pairs)
        object.__setattr__(self, "hidden", tuple(hidden))

    @classmethod
    def mlp(
        cls,
        params: Params,
        layers: Sequence[str | tuple[str, str | None]],
        cocycle: Cocycle | Sequence[Cocycle],
    ) -> DataDependentAction:
        """The action of GL(n_1) x ... x GL(n_{L-1}), with the widths of ``params`` and spaces h1, h2, ...

        Args:
          params: the parameters, or their shapes.
          layers: as for the constructor.
          cocycle: one for all hidden layers, or one for each.

        Raises:
          ValueError: ``params`` is not such a network.
        """
        kernels = [x if isinstance(x, str) else x[0] for x in layers]
        paths, leaves, _ = flatten(params)
        found = locate(paths, kernels)
        groups = {
            f"h{i}": GeneralLinear(jnp.shape(leaves[found[path]])[-1])
            for i, path in enumerate(kernels[:-1], start=1)
        }
        each = [cocycle] * len(groups) if isinstance(cocycle, Cocycle) else list(cocycle)
        if len(each) != len(groups):
            raise ValueError(f"need one cocycle, or {len(groups)} of them, got {len(each)}")
        action = cls(layers, groups, dict(zip(groups, each, strict=True)))
        action.check(params)
        return action

    # What it is.

    @property
    def groups(self) -> dict[str, Group]:
        """The group of each hidden space."""
        return {h.space: h.group for h in self.hidden}

    @property
    def dimension(self) -> int:
        """Dimension of the group."""
        return sum(h.group.dimension for h in self.hidden)

    def laws(self, samples: int = 1) -> Laws:
        """Which axioms hold for generic data of that many samples: those that hold at every hidden layer.

        Raises:
          ValueError: a cocycle does not take that many samples.
        """
        each = [h.cocycle.laws(samples, h.group.sizes[0]) for h in self.hidden]
        return Laws(*(all(values) for values in zip(*each, strict=True)))

    def check(self, params: Params, x: Any = None) -> None:
        """Checks that ``params`` is the network described, and that ``x`` is data for it.

        Args:
          params: arrays or ``ShapeDtypeStruct``.
          x: inputs of shape (n_0,) or (k, n_0), if any.

        Raises:
          ValueError: naming the leaf, its shape and the one needed.
        """
        paths, leaves, _ = flatten(params)
        found = locate(paths, (p for pair in self.layers for p in pair if p is not None))
        into = None
        for i, (kernel, bias) in enumerate(self.layers):
            shape = jnp.shape(leaves[found[kernel]])
            out = self.hidden[i].group.sizes[0] if i < len(self.hidden) else None
            if len(shape) != 2 or into not in (None, shape[0]) or out not in (None, shape[1]):
                raise ValueError(
                    f"leaf {kernel!r}: need a kernel of shape ({into or 'in'}, {out or 'out'}), got {shape}"
                )
            if i == 0 and x is not None and (jnp.ndim(x) not in (1, 2) or jnp.shape(x)[-1] != shape[0]):
                raise ValueError(f"x must have shape ({shape[0]},) or (k, {shape[0]}), got {jnp.shape(x)}")
            into = shape[1]
            if bias is not None and (got := jnp.shape(leaves[found[bias]])) != (into,):
                raise ValueError(f"leaf {bias!r}: need a bias of shape ({into},), got {got}")

    # Elements.

    def identity(self, dtype=None) -> Element:
        """The neutral element."""
        return {h.space: h.group.identity(dtype) for h in self.hidden}

    def sample(self, key: Array, dtype=None) -> Element:
        """A random element: independent samples of the groups."""
        keys = jax.random.split(key, len(self.hidden))
        return {h.space: h.group.sample(k, dtype) for h, k in zip(self.hidden, keys, strict=True)}

    def compose(self, a: Element, b: Element) -> Element:
        """The element that acts as ``a`` after ``b``, on the same data."""
        return {h.space: h.group.compose(a[h.space], b[h.space]) for h in self._of(a, b)}

    def inverse(self, g: Element) -> Element:
        """The inverse element."""
        return {h.space: h.group.inverse(g[h.space]) for h in self._of(g)}

    def sample_algebra(self, key: Array, dtype=None) -> Vector:
        """A random algebra vector."""
        keys = jax.random.split(key, len(self.hidden))
        return {h.space: h.group.algebra_sample(k, dtype) for h, k in zip(self.hidden, keys, strict=True)}

    def zero_algebra(self, dtype=None) -> Vector:
        """The zero algebra vector."""
        return {h.space: h.group.algebra_zero(dtype) for h in self.hidden}

    def exp(self, xi: Vector) -> Element:
        """The exponential of an algebra vector."""
        return {h.space: h.group.exp(xi[h.space]) for h in self._of(xi)}

    # What it does.

    def act(self, g: Element, params: Params, x: Array) -> Params:
        """Moves the parameters, given the data.

        ``act(compose(a, b), θ, x) == act(a, act(b, θ, x), x)``.

        Args:
          g: an element.
          params: the parameters θ.
          x: the data X, shape (n_0,) or (k, n_0).

        Returns:
          A pytree like ``params``; every leaf keeps its dtype.

        Raises:
          ValueError: the parameters or the data do not fit, or ``g`` is not an element.
        """
        self._of(g)
        z = self.preactivations(params, x)

        def kernel(i: int, old: Array) -> Array:
            new = old
            if i > 0:
                space, group, cocycle = self.hidden[i - 1]
                undo = cocycle.inverse(_matrix(group, g[space], old.dtype), z[space])
                new = jnp.matmul(undo.T.astype(old.dtype), new, precision=_HIGHEST)
            if i < len(self.hidden):
                space, group, _ = self.hidden[i]
                new = group.act(g[space], new, axis=1)
            return new

        def bias(i: int, old: Array) -> Array:
            space, group, _ = self.hidden[i]
            return group.act(g[space], old)

        return self._map(params, kernel, bias, lambda leaf: leaf)

    def generator(self, xi: Vector, params: Params, x: Array) -> Params:
        """The infinitesimal action M.θ = d/dt act(exp(t M), θ, x) at t = 0, zero on leaves nothing acts on.

        With ċ the derivative of a cocycle at the identity (``Cocycle.tangent``; dπ for a linear one),
        M.W_i = M_i W_i - W_i ċ_{i-1}(M_{i-1}, Z_{i-1}) and M.b_i = M_i b_i. It is orthogonal to the gradient of
        any loss of the outputs at ``x`` (one sample for a rotation cocycle, the batch for a batch cocycle).

        Args:
          xi: an algebra vector M.
          params: the parameters θ.
          x: the data X, shape (n_0,) or (k, n_0).

        Returns:
          A pytree like ``params``.

        Raises:
          ValueError: as ``act``, or the maps of this cocycle and number of samples are not a group action.

        Reference:
          Equation A.10, which is the case of linear cocycles.
        """
        self._of(xi)
        self._require_action(x)
        z = self.preactivations(params, x)

        def kernel(i: int, old: Array) -> Array:
            new = jnp.zeros_like(old)
            if i > 0:
                space, group, cocycle = self.hidden[i - 1]
                one = jnp.eye(group.sizes[0], dtype=old.dtype)
                slope = cocycle.tangent(group.tangent(xi[space], one, axis=0), z[space])
                new -= jnp.matmul(slope.T.astype(old.dtype), old, precision=_HIGHEST)
            if i < len(self.hidden):
                space, group, _ = self.hidden[i]
                new += group.tangent(xi[space], old, axis=1)
            return new

        def bias(i: int, old: Array) -> Array:
            space, group, _ = self.hidden[i]
            return group.tangent(xi[space], old)

        return self._map(params, kernel, bias, jnp.zeros_like)

    def at(self, x: Array) -> Equivariance:
        """The symmetry of θ -> apply(θ, x) at fixed data: H(θ, λ) = act(exp λ, θ, x), λ an algebra vector.

        Raises:
          ValueError: with that many samples it is not a group action.
        """
        self._require_action(x)
        return Equivariance(
            act=lambda params, lam: self.act(self.exp(lam), params, x),
            act_inverse=lambda params, lam: self.act(self.inverse(self.exp(lam)), params, x),
            identity=self.zero_algebra(),
        )

    def preactivations(self, params: Params, x: Array) -> dict[str, Array]:
        """Z_i of each hidden space, shape (n_i,) or (k, n_i), in at least float32."""
        return self._forward(params, x)[0]

    def apply(self, params: Params, x: Array) -> Array:
        """The outputs Z_L of the network, shape (n_L,) or (k, n_L), before any activation of that layer."""
        return self._forward(params, x)[1]

    def defined(self, g: Element, params: Params, x: Array) -> Array:
        """Whether ``act(g, params, x)`` is defined: a boolean scalar, usable under ``jit``.

        False off the non-degenerate locus of Theorem A.3.4 and Proposition A.3.5, where ``act`` gives NaN.
        """
        z = self.preactivations(params, x)
        checks = [
            h.cocycle.defined(_matrix(h.group, g[h.space], z[h.space].dtype), z[h.space]) for h in self._of(g)
        ]
        return jnp.stack(checks).all()

    def lipschitz_bound(
        self, g: Element, params: Params, x: Array, constants: float | Sequence[float] = 1.0
    ) -> Array:
        """A Lipschitz constant of the moved network x' -> apply(act(g, θ, x), x'), on all inputs x'.

        It is prod_i |W_i| prod_i eta_i |g_i| |c_i(g_i, Z_i)^-1| with operator norms; at g = 1 that is the
        usual bound of the network.

        Args:
          g: an element.
          params: the parameters θ.
          x: the data X.
          constants: the Lipschitz constant eta of every activation (1/4 for sigmoid), or one for each.

        Returns:
          A scalar.

        Raises:
          ValueError: as ``act``, or the number of constants is wrong.

        Reference:
          Proposition 2.4.2, where |c^-1| = |sigma(Vx)| / |sigma(gVx)|. Its generalisation to any c, printed
          without the factor |g|, is false.
        """
        each = [constants] * len(self.hidden) if isinstance(constants, (int, float)) else list(constants)
        if len(each) != len(self.hidden):
            raise ValueError(f"need one constant, or {len(self.hidden)} of them, got {len(each)}")
        z = self.preactivations(params, x)
        bound = jnp.ones((), jnp.float32)
        for h, eta in zip(self._of(g), each, strict=True):
            matrix = _matrix(h.group, g[h.space], z[h.space].dtype)
            bound = bound * eta * _norm(matrix) * _norm(h.cocycle.inverse(matrix, z[h.space]))
        for kernel, _ in self._arrays(params):
            bound = bound * _norm(kernel)
        return bound

    def __str__(self) -> str:
        rows = [("space", "group", "cocycle", "pre-activations of")]
        for h, (kernel, _) in zip(self.hidden, self.layers, strict=False):
            rows.append((h.space, str(h.group), h.cocycle.name, kernel))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"data-dependent action of dimension {self.dimension}", *lines])

    # Inside.

    def _map(
        self,
        params: Params,
        kernel: Callable[[int, Array], Array],
        bias: Callable[[int, Array], Array],
        other: Callable[[Any], Any],
    ) -> Params:
        """Maps the kernels, the biases of hidden layers, and all other leaves; the first two in float32 at least."""
        paths, leaves, treedef = flatten(params)
        found = locate(paths, (p for pair in self.layers for p in pair if p is not None))
        chosen = {found[w]: (kernel, i) for i, (w, _) in enumerate(self.layers)}
        chosen |= {found[b]: (bias, i) for i, (_, b) in enumerate(self.layers[:-1]) if b is not None}
        for position, leaf in enumerate(leaves):
            if position not in chosen:
                leaves[position] = other(leaf)
                continue
            function, i = chosen[position]
            array = jnp.asarray(leaf)
            work = array.astype(jnp.promote_types(array.dtype, jnp.float32))
            leaves[position] = function(i, work).astype(array.dtype)
        return jax.tree.unflatten(treedef, leaves)

    def _require_action(self, x: Array) -> None:
        samples = 1 if jnp.ndim(x) == 1 else jnp.shape(x)[0]
        laws = self.laws(samples)
        if not laws.group_action:
            raise ValueError(
                f"with {samples} samples the maps of this cocycle are not a group action: {laws}. "
                "It has no generator, and act(identity) or act(compose) are not what they should be"
            )

    def _of(self, *elements: Element) -> tuple[Hidden, ...]:
        """The hidden layers, after checking that the elements have just their keys."""
        keys = {h.space for h in self.hidden}
        for g in elements:
            if not isinstance(g, Mapping) or set(g) != keys:
                got = sorted(g) if isinstance(g, Mapping) else type(g).__name__
                raise ValueError(f"an element of this action has the keys {sorted(keys)}, got {got}")
        return self.hidden

    def _arrays(self, params: Params) -> list[tuple[Array, Array | None]]:
        """Kernel and bias of each layer, in at least float32."""
        paths, leaves, _ = flatten(params)
        found = locate(paths, (p for pair in self.layers for p in pair if p is not None))

        def read(path: str | None) -> Array | None:
            if path is None:
                return None
            leaf = jnp.asarray(leaves[found[path]])
            return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

        return [(read(kernel), read(bias)) for kernel, bias in self.layers]  # pyright: ignore[reportReturnType]

    def _forward(self, params: Params, x: Array) -> tuple[dict[str, Array], Array]:
        self.check(params, x)
        arrays = self._arrays(params)
        x = jnp.asarray(x)
        features = jnp.atleast_2d(x)
        z: dict[str, Array] = {}
        for i, (kernel, bias) in enumerate(arrays):
            total = jnp.matmul(features, kernel, precision=_HIGHEST)
            total = total if bias is None else total + bias[None]
            if i < len(self.hidden):
                z[self.hidden[i].space] = total.reshape(*x.shape[:-1], -1)
                features = self.hidden[i].cocycle.activation(total)
        return z, total.reshape(*x.shape[:-1], -1)


def _matrix(group: Group, g: Element, dtype) -> Array:
    """The matrix of an element in the exponent-1 representation, shape (n, n)."""
    return group.act(g, jnp.eye(group.sizes[0], dtype=dtype), axis=0)


def _norm(matrix: Array) -> Array:
    return jnp.linalg.norm(matrix, ord=2)
