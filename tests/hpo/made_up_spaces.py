"""Random spaces for hypothesis: every kind of dimension, any depth of conditions."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from hepdask_ml.hpo.dimensions import Choice, Dimension, Fixed, Integer, Normal, Real
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.values import identity

if TYPE_CHECKING:
    from collections.abc import Callable

# Printable text: YAML has no way to hold some of the other characters.
texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=8)
names = texts.filter(bool)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
plain_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
units = st.floats(0.0, 1.0)


@st.composite
def continuous(draw: Callable[..., Any]) -> Real:
    """Uniform in the number or in its logarithm."""
    logarithmic = draw(st.booleans())
    low = draw(st.floats(1e-12 if logarithmic else -1e12, 1e12))
    high = draw(st.floats(low + max(abs(low) * 1e-3, 1e-12), 1e13))
    return Real(low, high, log=logarithmic)


@st.composite
def stepped(draw: Callable[..., Any]) -> Real:
    """Uniform in the number or in its logarithm, with two to a thousand steps."""
    logarithmic = draw(st.booleans())
    step = draw(st.sampled_from([0.1, 0.025, 1e-3, 2.0, 7.5]))
    first = draw(st.integers(1 if logarithmic else -1000, 1000))
    last = first + draw(st.integers(1, 1000))
    low, high = (float(n * Decimal(repr(step))) for n in (first, last))
    return Real(low, high, log=logarithmic, step=step)


@st.composite
def integers(draw: Callable[..., Any]) -> Integer:
    """Small and large, with and without steps, uniform or not."""
    logarithmic = draw(st.booleans())
    largest = draw(st.sampled_from([5, 1000, 10**12]))
    low = draw(st.integers(1 if logarithmic else -largest, largest - 1))
    high = draw(st.integers(low + 1, largest))
    steps = [n for n in (1, 2, 3, 32, high - low) if (high - low) % n == 0]
    return Integer(low, high, log=logarithmic, step=draw(st.sampled_from(steps)))


choices = st.builds(
    Choice,
    st.lists(plain_values, min_size=1, max_size=5, unique_by=identity).map(tuple),
    st.booleans(),
)
fixed = st.builds(Fixed, plain_values)


def normals(steps: st.SearchStrategy[float | None]) -> st.SearchStrategy[Normal]:
    """Normal and log-normal numbers."""
    return st.builds(
        Normal, st.floats(-10.0, 10.0), st.floats(0.01, 5.0), st.sampled_from([None, 2, 10]), steps
    )


no_step = st.none()
some_step = st.sampled_from([0.1, 1, 1.0, 5])
numbers = st.one_of(continuous(), stepped(), integers(), normals(no_step), normals(some_step))
countable = st.one_of(stepped(), integers(), choices, fixed)
dimensions: st.SearchStrategy[Dimension] = numbers | choices | fixed


@st.composite
def spaces(draw: Callable[..., Any], names: st.SearchStrategy[str] = names) -> Space:
    """One to six parameters, each of which may depend on any of those before it."""
    made: dict[str, Dimension] = {}
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        dimension = draw(dimensions)
        parents = [n for n, each in made.items() if isinstance(each, Choice | Integer | Fixed)]
        when = {}
        if parents and draw(st.booleans()):
            for parent in draw(st.lists(st.sampled_from(parents), max_size=2, unique=True)):
                places = draw(st.lists(units, min_size=1, max_size=3))
                values = [made[parent].value_at(place) for place in places]
                when[parent] = list({identity(value): value for value in values}.values())
        made[name] = replace(dimension, when=when)
    return Space(dict(draw(st.permutations(list(made.items())))))
