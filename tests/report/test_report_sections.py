"""The sections' own measurements against independent formulas, and how sections are found."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markupsafe import Markup

import eqtoolbox as eqt
from eqtoolbox.report import Check, Section, SectionResult, all_sections, sections
from eqtoolbox.report._check import Invariance
from eqtoolbox.report._config import Config
from eqtoolbox.report._context import Context
from eqtoolbox.report.sections._charges import at_start
from eqtoolbox.report.sections._flatness import _room
from eqtoolbox.report.sections._gradient import orbit_part
from eqtoolbox.report.sections._orbit import separation
from eqtoolbox.symmetry import generator_matrix
from eqtoolbox.testing import Discrepancy

AXES = {"u": "_ h", "b": "h", "v": "h* _"}


def params_of(width=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"u": (3, width), "b": (width,), "v": (width, 2)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def context_of(sym, apply, params):
    """A context as far as ``at_start`` reads it."""
    rng = np.random.default_rng(1)
    batch = eqt.Batch(
        jnp.asarray(rng.normal(size=(16, 3)), jnp.float32), jnp.asarray(rng.normal(size=(16, 2)), jnp.float32)
    )
    problem = eqt.Problem("p", lambda key: params, apply, lambda y, t: jnp.mean((y - t) ** 2), symmetry=sym)
    none = Discrepancy(0.0, "", ())
    return Context(
        problem=problem,
        config=Config(),
        params=params,
        data=batch,
        examples=batch,
        indices=jnp.zeros((1, 1), int),
        invariance=Invariance("float32", {"": none}, {"": none}),
        control=None,
    )


def test_orbit_part_against_the_dense_generators():
    params, gradient = params_of(), params_of(seed=5)
    sym = eqt.Symmetry(AXES, {"h": eqt.groups.Monomial(4, scales=1)})
    found = jax.jit(lambda p, g: orbit_part(sym, p, g))(params, gradient)
    x = np.asarray(generator_matrix(sym, params))
    g = np.asarray(jax.flatten_util.ravel_pytree(gradient)[0])
    exact = np.linalg.norm(x @ g) / (np.linalg.norm(x, 2) * np.linalg.norm(g))
    # Power iteration finds the stretch from below.
    assert exact <= float(found[""]) <= 1.1 * exact
    assert float(found["h"]) == pytest.approx(float(found[""]), rel=1e-5)
    along = sym.generator({"h": jnp.ones((1, 4))}, params)
    assert float(orbit_part(sym, params, along)[""]) > 0.3


def test_orbit_part_of_no_gradient_is_zero():
    sym = eqt.Symmetry(AXES, {"h": eqt.groups.Monomial(4, scales=1)})
    zero = jax.tree.map(jnp.zeros_like, params_of())
    assert float(orbit_part(sym, params_of(), zero)[""]) == 0


def linear(params, x):
    return (x @ params["u"] + params["b"][None]) @ params["v"]


def pinned(params, x):
    """Invariant under matrices that fix the all-ones vector only."""
    return linear(params, x) + 2 * params["v"].sum(0)[None]


def softly(params, x):
    return jax.nn.gelu(x @ params["u"] + params["b"][None]) @ params["v"]


@pytest.mark.parametrize(
    ("group", "apply", "count"),
    [
        (eqt.groups.GeneralLinear(4), linear, 10),
        (eqt.groups.Stabiliser(eqt.groups.GeneralLinear(4)), pinned, 6),
        (eqt.groups.Orthogonal(4), linear, 0),
        (eqt.groups.Permutation(4), softly, 0),
    ],
)
def test_charges_at_the_start(group, apply, count):
    found = at_start(context_of(eqt.Symmetry(AXES, {"h": group}), apply, params_of()))
    assert found["kinds"]["h"]["charges"] == count
    assert (found["one_step"] is None) == (count == 0)
    if count:
        gap = found["one_step"]["gap"] / found["one_step"]["exact"]
        assert max(gap[4:]) < 1e-9


def test_a_shift_has_charges_that_no_step_moves():
    sym = eqt.Symmetry({"v": "_ c", "b": "h"}, {"h": eqt.groups.Translation(4)})
    found = at_start(context_of(sym, lambda p, x: x @ p["u"] @ p["v"], params_of()))
    assert found["kinds"]["h"]["charges"] == 4
    assert found["one_step"] is None


@pytest.mark.parametrize("size", [0.0, 0.05, 0.3])
def test_room_of_a_quadrature_is_never_less_than_the_measure(size):
    """Spectra with clusters at zero, seen by a few Lanczos steps."""
    rng = np.random.default_rng(3)
    for _ in range(8):
        spectrum = np.concatenate([np.zeros(10), 0.1 * rng.normal(size=15), rng.normal(size=5)])
        start = np.sqrt(np.full(30, 1 / 30))
        diagonal = jnp.asarray(spectrum, jnp.float32)
        ritz = eqt.linalg.lanczos(
            diagonal.__mul__,
            jnp.zeros(30),
            6,
            key=jax.random.key(0),
            start=jnp.asarray(start, jnp.float32),
            vectors=False,
        )
        inside = np.mean(np.abs(spectrum) <= size)
        room = _room(np.asarray(ritz.values), np.asarray(ritz.weights), size)
        assert inside - 1e-5 <= room <= 1 + 1e-5


def test_separation_ignores_what_diverged():
    apart = separation(np.array([[1.0, 1.0, 1.0], [1.0, 3.0, 2.0], [1.0, np.inf, 1.0]]))
    np.testing.assert_array_equal(apart, [0.0, 1.0, np.nan])


def test_a_check_of_nan_fails():
    assert Check("", 1.0, 2.0).passed
    assert not Check("", 1.0, 2.0, at_least=True).passed
    assert not Check("", float("nan"), 2.0).passed
    assert not Check("", float("nan"), 2.0, at_least=True).passed


def test_the_sections_are_registered_in_order():
    names = [s.name for s in all_sections()]
    assert names == [
        "symmetries",
        "gradient",
        "identities",
        "flatness",
        "sharpness",
        "commutant",
        "charges",
        "orbit",
        "discovery",
    ]
    assert [s.order for s in all_sections()] == sorted(s.order for s in all_sections())


def test_a_section_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "_dropped_in.py").write_text(
        textwrap.dedent("""
        from eqtoolbox.report import Section, SectionResult
        SECTION = Section("dropped in", "A dropped in section", 15, lambda context: SectionResult([]))
        """)
    )
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    assert [s.name for s in all_sections()][:3] == ["symmetries", "dropped in", "gradient"]
    (tmp_path / "_again.py").write_text((tmp_path / "_dropped_in.py").read_text())
    with pytest.raises(ValueError, match="names of the sections must differ"):
        all_sections()


def test_a_section_returns_what_it_is_asked_for():
    section = Section("a", "A", 1, lambda context: SectionResult([Markup("<p>x</p>")], data={"n": 1}))
    assert section.run(None).data == {"n": 1}
    assert section.probe is None
