"""Expressions mean what Python means by them, event by event, and nothing else can be said."""

from __future__ import annotations

import builtins
import copy
import math
import operator
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.data.expressions import Expression, expression
from hepdask_ml.data.grammar import DEEPEST, LONGEST, parsed
from hepdask_ml.data.jagged import MOST, Items, items_of
from hepdask_ml.data.vocabulary import CONSTANTS, FUNCTIONS
from hepdask_ml.errors import InputError

EVENTS: dict[str, list[Any]] = {
    "pt": [[50.0, 20.0], [], [31.0]],
    "eta": [[-1.0, 2.5], [], [0.5]],
    "id": [[11, -13], [], [22]],
    "met": [10.0, 0.0, 40.0],
    "n": [2, 0, 1],
    "flag": [True, False, True],
}
NAN = math.nan


def jagged(lists: list[list[Any]]) -> Items:
    offsets = np.cumsum([0, *map(len, lists)])
    kind = np.asarray([each for items in lists for each in items] or [0.0])
    values = np.asarray([each for items in lists for each in items], kind.dtype)
    return items_of(Items(values, offsets.astype(np.int64)), "lists")


def given_as_items(events: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        name: jagged(each) if each and isinstance(each[0], list) else np.asarray(each)
        for name, each in events.items()
    }


def as_lists(found: Items) -> list[Any]:
    if found.offsets is None:
        return list(found.values.tolist())
    return [
        found.values[start:stop].tolist()
        for start, stop in zip(found.offsets[:-1], found.offsets[1:], strict=True)
    ]


def value(text: str, **events: list[Any]) -> list[Any]:
    return as_lists(expression(text).items(given_as_items(events or EVENTS)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("met", [10.0, 0.0, 40.0]),
        ("pt * 2", [[100.0, 40.0], [], [62.0]]),
        ("pt / met", [[5.0, 2.0], [], [0.775]]),
        ("sum(pt)", [70.0, 0.0, 31.0]),
        ("sum(id)", [-2, 0, 22]),
        ("sum(pt > 30)", [1, 0, 1]),
        ("prod(id)", [-143.0, 1.0, 22.0]),
        ("count(pt)", [2, 0, 1]),
        ("mean(pt)", [35.0, NAN, 31.0]),
        ("min(pt)", [20.0, NAN, 31.0]),
        ("max(pt)", [50.0, NAN, 31.0]),
        ("any(pt > 40)", [True, False, False]),
        ("all(pt > 40)", [False, True, False]),
        ("first(pt)", [50.0, NAN, 31.0]),
        ("first(pt, -1)", [50.0, -1.0, 31.0]),
        ("first(id, n)", [11, 0, 22]),
        ("pt[0]", [50.0, NAN, 31.0]),
        ("pt[-1]", [20.0, NAN, 31.0]),
        ("pt[1]", [20.0, NAN, NAN]),
        ("pt[-2]", [50.0, NAN, NAN]),
        ("pt[pt > 30]", [[50.0], [], [31.0]]),
        ("pt[met > 20]", [[], [], [31.0]]),
        ("sum(pt[abs(eta) < 2.4])", [50.0, 0.0, 31.0]),
        ("pt / sum(pt)", [[50 / 70, 20 / 70], [], [1.0]]),
        ("min(met, 15)", [10.0, 0.0, 15.0]),
        ("max(met, n, 20)", [20.0, 20.0, 40.0]),
        ("max(pt, met)", [[50.0, 20.0], [], [40.0]]),
        ("where(pt > 30, pt, 0)", [[50.0, 0.0], [], [31.0]]),
        ("20 <= pt < 50", [[False, True], [], [True]]),
        ("abs(id) in (11, 13)", [[True, True], [], [False]]),
        ("abs(id) not in [11, 13]", [[False, False], [], [True]]),
        ("n in (n, 7)", [True, True, True]),
        ("n >= 1 and met > 20", [False, False, True]),
        ("not n or flag", [True, True, True]),
        ("n and met", [True, False, True]),
        ("(n >= 1) & ~(met > 20) | False", [True, False, False]),
        ("(n > 0) ^ flag", [False, False, False]),
        ("id & 3", [[3, 3], [], [2]]),
        ("1 << n", [4, 1, 2]),
        ("id >> 1", [[5, -7], [], [11]]),
        ("~n", [-3, -1, -2]),
        ("+flag + flag", [2, 0, 2]),
        ("-flag", [-1, 0, -1]),
        ("n ** 2", [4.0, 0.0, 1.0]),
        ("n // 2", [1, 0, 0]),
        ("-n % 3", [1, 0, 2]),
        ("n // -1", [-2, 0, -1]),
        ("7 // n", [3.0, math.inf, 7.0]),
        ("7 % n", [1.0, NAN, 0.0]),
        ("1 / met", [0.1, math.inf, 0.025]),
        ("-met / met", [-1.0, NAN, -1.0]),
        ("round(met / 16) + round(n)", [3.0, 0.0, 3.0]),
        ("floor(eta)", [[-1.0, 2.0], [], [0.0]]),
        ("delta_phi(met * 0 + 3, -3)", [6 - 2 * math.pi] * 3),
        ("float(n) + pi - CONSTANT", [2 + math.pi, math.pi, 1 + math.pi]),
        ("isnan(mean(pt)) == (n == 0)", [True, True, True]),
        ("isfinite(max(pt))", [True, False, True]),
        ("nan != met", [True, True, True]),
    ],
)
def test_expression_is_calculated(text: str, expected: list[Any]) -> None:
    found = value(text, **EVENTS, CONSTANT=[0, 0, 0])
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-15, nan_ok=True)
        assert type(one) is type(other)


FUNCTIONS_OF_MATH = [
    *("sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "floor", "ceil"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "atanh"),
]


@pytest.mark.parametrize("name", FUNCTIONS_OF_MATH)
@given(x=st.floats(0.01, 0.99))
@settings(max_examples=10)
def test_functions_are_those_of_math(name: str, x: float) -> None:
    assert value(f"{name}(x)", x=[x]) == [pytest.approx(getattr(math, name)(x), rel=1e-12)]


@given(x=st.floats(-100, 100), y=st.floats(-100, 100))
def test_functions_of_two_are_those_of_math(x: float, y: float) -> None:
    for name in ("atan2", "hypot"):
        expected = getattr(math, name)(x, y)
        assert value(f"{name}(x, y)", x=[x], y=[y]) == [pytest.approx(expected, abs=1e-12)]
    [wrapped] = value("delta_phi(x, y)", x=[x], y=[y])
    assert -math.pi <= wrapped <= math.pi
    assert math.cos(wrapped) == pytest.approx(math.cos(x - y), abs=1e-9)


def test_every_function_is_tried_here() -> None:
    tried = {*FUNCTIONS_OF_MATH, "atan2", "hypot", "acosh", "sign"}
    text = Path(__file__).read_text(encoding="utf-8")
    assert not [name for name in {*FUNCTIONS} - tried if f"{name}(" not in text]
    assert value("acosh(x) * sign(x)", x=[1.0]) == [0.0]
    assert set(CONSTANTS) == {"pi", "inf", "nan"}


# The same by plain Python: each part is a text, and a function of one event.

Part = tuple[str, Callable[[dict[str, Any]], Any]]


def over_items(function: Callable[..., Any]) -> Callable[..., Any]:
    """Apply a function of numbers to lists of them, and to numbers beside the lists."""

    def apply(*values: Any) -> Any:
        lists = [each for each in values if isinstance(each, list)]
        if not lists:
            return function(*values)
        rows = [each if isinstance(each, list) else [each] * len(lists[0]) for each in values]
        return [function(*row) for row in zip(*rows, strict=True)]

    return apply


def divided(x: float, y: float) -> float:
    if y:
        return x / y
    return math.copysign(math.inf, x) * math.copysign(1, y) if x and x == x else NAN


def remainder(x: float, y: float) -> float:
    return x % y if y else NAN


def rounded_down(x: float, y: float) -> float:
    return x // y if y else divided(x, y)


def true(x: Any) -> bool:
    return bool(x) and x == x


def least(x: float, y: float) -> float:
    return NAN if x != x or y != y else min(x, y)


def added(items: list[Any]) -> Any:
    found = 0
    for each in items:
        found += each
    return found


BINARY: dict[str, Callable[..., Any]] = {
    "({} + {})": operator.add,
    "({} - {})": operator.sub,
    "({} * {})": operator.mul,
    "({} / {})": divided,
    "({} // {})": rounded_down,
    "({} % {})": remainder,
    "({} < {})": operator.lt,
    "({} <= {})": operator.le,
    "({} == {})": operator.eq,
    "({} != {})": operator.ne,
    "({} and {})": lambda x, y: true(x) and true(y),
    "({} or {})": lambda x, y: true(x) or true(y),
    "min({}, {})": least,
    "max({}, {})": lambda x, y: -least(-x, -y),
    "where({} > 1, {}, 2)": lambda x, y: y if x > 1 else 2,
    "(0 <= {} < {})": lambda x, y: 0 <= x < y,
    "({} in (1, {}))": lambda x, y: x in (1, y) and x == x,
}
UNARY: dict[str, Callable[..., Any]] = {
    "-{}": operator.neg,
    "(not {})": lambda x: not true(x),
    "abs({})": abs,
    "({} % 3)": lambda x: x % 3,
}
REDUCED: dict[str, Callable[[list[Any]], Any]] = {
    "sum({})": added,
    "count({})": len,
    "mean({})": lambda items: added(items) / len(items) if items else NAN,
    "min({})": lambda items: NAN if not items or any(x != x for x in items) else min(items),
    "max({})": lambda items: NAN if not items or any(x != x for x in items) else max(items),
    "any({})": lambda items: any(map(true, items)),
    "all({})": lambda items: all(map(true, items)),
    "first({}, -5)": lambda items: items[0] if items else -5,
    "{}[0]": lambda items: items[0] if items else NAN,
    "{}[-2]": lambda items: items[-2] if len(items) > 1 else NAN,
}


def applied(template: str, function: Callable[..., Any], *parts: Part) -> Part:
    return (
        template.format(*[text for text, _ in parts]),
        lambda event: function(*[of_event(event) for _, of_event in parts]),
    )


def name(word: str) -> Part:
    return word, lambda event: event[word]


def constant(number: float) -> Part:
    return f"({number!r})", lambda event: number


def kept(values: list[Any], condition: list[Any]) -> list[Any]:
    return [value for value, keep in zip(values, condition, strict=True) if true(keep)]


LEAVES = st.one_of(
    st.sampled_from([name(word) for word in ("a", "b", "i", "x", "m")]),
    st.builds(constant, st.sampled_from([0, 1, 2, -3, 0.5, -1.25])),
)
LISTS = st.sampled_from([name("a"), name("b"), name("i")])


def larger(parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    two = st.tuples(st.sampled_from(sorted(BINARY)), parts, parts)
    one = st.tuples(st.sampled_from(sorted(UNARY)), parts)
    of_lists = st.tuples(st.sampled_from(sorted(REDUCED)), LISTS, parts)
    some = st.tuples(st.sampled_from(sorted(REDUCED)), LISTS, LISTS)
    return st.one_of(
        two.map(lambda each: applied(each[0], over_items(BINARY[each[0]]), *each[1:])),
        one.map(lambda each: applied(each[0], over_items(UNARY[each[0]]), each[1])),
        of_lists.map(lambda each: reduced_sum(*each)),
        some.map(lambda each: reduced_choice(*each)),
    )


def reduced_sum(template: str, items: Part, part: Part) -> Part:
    """Reduce a sum, which is of items whatever the other part is."""
    both = applied("({} + {})", over_items(operator.add), items, part)
    return applied(template, REDUCED[template], both)


def reduced_choice(template: str, items: Part, other: Part) -> Part:
    condition = applied("{} > 0", over_items(lambda x: x > 0), other)
    return applied(template, REDUCED[template], applied("{}[{}]", kept, items, condition))


PARTS = st.recursive(LEAVES, larger, max_leaves=8)
# Sums of such numbers are exact in whatever order they are added.
QUARTERS = st.integers(-40, 40).map(lambda number: number / 4)


@st.composite
def some_events(draw: st.DrawFn) -> list[dict[str, Any]]:
    events = []
    for length in draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)):
        numbers = st.lists(QUARTERS, min_size=length, max_size=length)
        whole = st.lists(st.integers(-5, 5), min_size=length, max_size=length)
        event = {"a": draw(numbers), "b": draw(numbers), "i": draw(whole)}
        events.append({**event, "x": draw(QUARTERS), "m": draw(st.integers(-5, 5))})
    return events


def columns(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, kind in (("a", float), ("b", float), ("i", int)):
        lists = [event[word] for event in events]
        offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
        found[word] = Items(np.asarray([each for one in lists for each in one], kind), offsets)
    found["x"] = np.asarray([event["x"] for event in events], float)
    found["m"] = np.asarray([event["m"] for event in events], int)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (one != one and other != other) or math.isclose(one, other, rel_tol=1e-12)


@given(part=PARTS, events=some_events())
@settings(max_examples=200, deadline=None)
def test_arrays_agree_with_python_event_by_event(part: Part, events: list[dict[str, Any]]) -> None:
    text, of_event = part
    found = expression(text).items(columns(events))
    if not expression(text).names:
        assert same(found.values.tolist(), of_event({}))
        return
    for one, event in zip(as_lists(found), events, strict=True):
        assert same(one, of_event(event)), (text, event)


@given(events=some_events(), cut=st.integers(0, 5), part=PARTS)
@settings(max_examples=50, deadline=None)
def test_batches_do_not_matter(part: Part, events: list[dict[str, Any]], cut: int) -> None:
    wanted = expression(part[0])
    if not wanted.names:
        return
    whole = wanted.items(columns(events))
    parts = [wanted.items(columns(some)) for some in (events[:cut], events[cut:])]
    joined = [each for one in parts for each in as_lists(one)]
    assert {one.values.dtype for one in parts} == {whole.values.dtype}
    for one, other in zip(joined, as_lists(whole), strict=True):
        assert same(one, other)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("x + 1", [MOST]),
        ("x - 2", [-MOST]),
        ("x * x", [2**32]),
        ("x * 3", [-(2**62)]),
        ("-x", [-MOST - 1]),
        ("x // -1", [-MOST - 1]),
        ("abs(x)", [-MOST - 1]),
        ("1 << x + 50", [12]),
        ("x << 40", [2**30]),
    ],
)
def test_whole_number_that_is_too_large_is_refused(text: str, numbers: list[int]) -> None:
    if "50" in text:
        assert value(text, x=numbers) == [2**62]
        text = text.replace("1 <<", "2 <<")
    with pytest.raises(InputError, match=r"go beyond 9223372036854775807: put float\(\.\.\.\)"):
        value(text, x=numbers)
    assert value("float(x) * 3", x=numbers) == [numbers[0] * 3.0]


@given(st.lists(st.lists(st.integers(-MOST, MOST), max_size=5), min_size=1, max_size=5))
def test_sum_is_exact_or_refused(lists: list[list[int]]) -> None:
    given_items = {"x": Items(*_content(lists))}
    try:
        found = expression("sum(x)").items(given_items)
    except InputError:
        assert any(sum(map(abs, items)) > MOST - 2**20 for items in lists)
    else:
        assert found.values.tolist() == [sum(items) for items in lists]


@given(
    st.sampled_from(["+", "-", "*"]),
    st.integers(-MOST - 1, MOST),
    st.integers(-MOST - 1, MOST) | st.integers(-1000, 1000),
)
def test_operator_is_exact_or_refused(sign: str, x: int, y: int) -> None:
    expected = {"+": x + y, "-": x - y, "*": x * y}[sign]
    try:
        found = value(f"x {sign} y", x=[x], y=[y])
    except InputError:
        assert abs(expected) > MOST - 2**20
    else:
        assert found == [expected]


def _content(lists: list[list[int]]) -> tuple[Any, Any]:
    flat = np.asarray([each for items in lists for each in items], np.int64)
    return flat, np.cumsum([0, *map(len, lists)]).astype(np.int64)


def test_large_whole_numbers_are_told_apart() -> None:
    events = [2**62, 2**62 + 1]
    assert value("event % 2 == 1", event=events) == [False, True]
    assert value(f"event == {2**62 + 1}", event=events) == [False, True]


REFUSED = [
    ("", "it is empty: name a branch"),
    ("x" * (LONGEST + 1), "it has 4001 characters of 4000 at most"),
    ("Jet_pt *", "syntax .*at its end"),
    ("(x", "was never closed at character 1"),
    ("x y", "syntax .*at character 3"),
    ("x = 3", "syntax .*at character"),
    ("x; y", "syntax .*at character 2"),
    ("x # y", "holds the character '#'"),
    ("x \\\n + y", r"holds the character '\\\\'"),
    ("x\0", r"holds the character '\\x00'"),
    ("x + \ud800", "characters that are no text"),
    ("x > 1 && y < 2", 'there is no "&&": write and'),
    ("x > 1 || y < 2", r'there is no "\|\|": write or'),
    ("!x", 'there is no "!": write not'),
    ("x ? y : z", r'there is no "\?": write where'),
    ("1if x else y", "a letter follows the number 1:"),
    ("x + 2.5e3and y", r"a letter follows the number 2\.5e3:"),
    ("2j * x", "a letter follows the number 2:"),
    ("0x1f * x", "a letter follows the number 0:"),
    ("99999999999999999999 * x", "a number is greater than 9223372036854775807 at character 1"),
    ("x if y else z", r"there is no \"if\" at character 1: write where\(condition, yes, no\)"),
    ("lambda: x", "functions are not made in it"),
    ("[x for x in y]", "there are no loops"),
    ("sum(x for x in y)", "there are no loops at character 4"),
    ("{x: y for x in y}", "there are no loops"),
    ("(x := 3)", "NamedExpr is not known here"),
    ("await x", "Await is not known here"),
    ("{**x}", "Dict is not known here"),
    ("f'{x}'", "text is no number"),
    ("x + 'text'", r"text stands in branch\(...\) only at character 5"),
    ("x + b'text'", "b'text' is no number"),
    ("x == None", "None is no number"),
    ("x[...]", "Ellipsis is no number"),
    ("x[1:2]", "there are no slices at character 3"),
    ("x[0, 1]", "a list stands behind in only"),
    ("x @ y", "there is no operator @"),
    ("x is y", 'there is no "is" at character 1: write =='),
    ("x is not y", 'there is no "is not" at character 1: write !='),
    ("x in y", 'no list stands behind "in" at character 6'),
    ("x in ()", 'no list stands behind "in"'),
    ("0 < x in (1, 2)", '"in" stands alone'),
    ("cso(x)", 'there is no function cso at character 1: did you mean "cos"?'),
    ("len(x)", "there is no function len at character 1: write count"),
    ("np.sin(x)", "a dot stands only within the name of a branch"),
    ("x.sum()", "a dot stands only within the name of a branch"),
    ("sum(x).y", "a dot stands only within the name of a branch"),
    ("sum(x)(y)", "only a function with a name is called"),
    ("sum()", "sum has 0 arguments at character 1: it takes 1"),
    ("first(x, y, z)", "first has 3 arguments at character 1: it takes 1 to 2"),
    ("sum(x, axis=1)", "sum has arguments with = or *"),
    ("max(*x)", "max has arguments with = or *"),
    ("branch(x)", "branch takes a name in quotes"),
    ("branch('')", "branch takes a name in quotes"),
    ("__x", r"names with two underscores in front are no branches at character 1: write branch"),
    ("x.__class__.__mro__", "names with two underscores in front"),
    ("().__class__", "a dot stands only within the name"),
    ("__import__('os').system('true')", "a dot stands only within the name"),
    ("eval('x')", "there is no function eval"),
    ("-" * 200 + "x", "go more than 100 deep"),
    ("-" * 3990 + "x", "go more than 100 deep"),
    ("(" * 300 + "x" + ")" * 300, "nested|deep"),
    ("x" + "+x" * 150, "go more than 100 deep"),
    ("x" + "[0]" * 150, "go more than 100 deep"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=lambda each: ascii(each)[:20])
def test_bad_expression_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        expression(text)
    said = str(caught.value)
    assert '" is no expression: ' in said
    assert "\n" not in said
    assert not said.endswith(".")


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="3 is no expression: it must be text"):
        expression(3)


@given(st.text(alphabet="xy01.+-*/%()[]<>=!&|~^,'\" _:@{}#\\\nandorti", max_size=30))
@settings(max_examples=500)
def test_any_text_is_an_expression_or_an_input_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            wanted = expression(text)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
    arrays = {each: np.asarray([1.0, 2.0]) for each in wanted.names}
    try:
        found = wanted.items(arrays)
    except InputError as error:
        assert str(error).startswith("expression ")  # noqa: PT017
    else:
        assert isinstance(found, Items)


class Trap:
    """Answers nothing: whoever looks for an attribute of it has left the grammar."""

    def __getattr__(self, word: str) -> Any:
        raise AssertionError(f"somebody looked for {word}")


@given(word=st.sampled_from(sorted(vars(builtins))))
def test_no_builtin_can_be_called(word: str) -> None:
    if word in FUNCTIONS:
        # The functions of the same name are the vocabulary's, which know arrays alone.
        assert FUNCTIONS[word].apply.__module__ != "builtins"
        return
    with pytest.raises(InputError):
        expression(f"{word}('x')")
    with pytest.raises(InputError):
        expression(f"{word}(x)")


def test_name_is_a_branch_and_nothing_else() -> None:
    for word in ("print", "open", "sum", "os", "self", "branch", "np"):
        assert expression(word).names == (word,)
        assert value(f"{word} + 1", **{word: [1]}) == [2]
        with pytest.raises(InputError, match=f'there is no branch "{word}"'):
            expression(word).items({})


def test_dots_belong_to_the_name() -> None:
    wanted = expression("AnalysisJetsAuxDyn.pt / 1000")
    assert wanted.names == ("AnalysisJetsAuxDyn.pt",)
    assert as_lists(wanted.items({"AnalysisJetsAuxDyn.pt": np.asarray([5.0])})) == [0.005]
    with pytest.raises(InputError, match="there is no branch"):
        wanted.items({"AnalysisJetsAuxDyn": Trap()})


def test_branch_of_any_name() -> None:
    wanted = expression("branch('Jet/pt[0]: #1') + branch(\"__x\")")
    assert wanted.names == ("Jet/pt[0]: #1", "__x")
    assert expression(" Jet_pt ").branch == "Jet_pt"
    assert expression("branch('Jet pt')").branch == "Jet pt"
    assert expression("Jet_pt + 0").branch is None


def test_expression_may_have_several_lines() -> None:
    assert value("met\n  + n\t* 2") == [14.0, 0.0, 42.0]


def test_nested_comparisons_are_calculated_once() -> None:
    text = "x"
    for _ in range(45):
        text = f"(0 < {text} < 2)"
    assert value(text, x=[1, 3]) == [True, False]
    text = "x"
    for _ in range(40):
        text = f"({text} in (1, 2))"
    assert value(text, x=[1, 3]) == [True, False]


def test_many_conditions_are_not_deep() -> None:
    assert value(" and ".join(["x"] * 600), x=[1, 0]) == [True, False]
    assert value(f"x in ({', '.join(map(str, range(700)))})", x=[699, 700]) == [True, False]
    assert value("x" + "+x" * (DEEPEST - 1), x=[1]) == [DEEPEST]


def test_expression_travels_as_its_text() -> None:
    wanted = expression("sum(pt[pt > 30])")
    for other in (pickle.loads(pickle.dumps(wanted)), copy.deepcopy(wanted)):
        assert other == wanted
        assert hash(other) == hash(wanted)
    assert len(pickle.dumps(wanted)) < 200
    assert parsed(wanted.text) is parsed(str(wanted.text))


BAD_DATA = [
    ("mte * 2", 'there is no branch "mte": did you mean "met"?'),
    ("sum(met)", "and the like take a list of items in each event, and there is one number"),
    ("met[0]", "take a list of items"),
    ("pt[pt > 30] * eta", "other numbers of items in the same event"),
    ("pt[eta]", "square brackets take a whole number, as in x"),
    ("pt[1.5]", "square brackets take a whole number"),
    ("pt[id]", "square brackets take a whole number"),
    ("first(pt, eta)", "must be one number for each event"),
    ("n >= 2 & met > 20", "& takes conditions or whole numbers, not both"),
    ("met & 1", "& takes conditions or whole numbers"),
    ("id[0] & 1", "not both, nor floating point (x[0] is, unlike first(x, 0)): put"),
    ("~met", "~ takes conditions or whole numbers"),
    ("n << 63", "shift whole numbers by 0 to 62 places"),
    ("n >> met", "shift whole numbers"),
    ("n << -n", "shift whole numbers"),
]


@pytest.mark.parametrize(("text", "message"), BAD_DATA)
def test_what_does_not_fit_the_branches_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        value(text)
    assert message in str(caught.value)
    assert text in str(caught.value) or "no branch" in message


def test_branches_of_other_events_are_refused() -> None:
    with pytest.raises(InputError, match="brings branches of 1 and 2 events together"):
        value("x + y", x=[1], y=[1, 2])
    with pytest.raises(InputError, match="brings branches of 1 and 2 events together"):
        value("x + y", x=[[1, 2]], y=[1, 2])


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.asarray([1, 2], np.uint8), np.int64),
        (np.asarray([1, 2], ">i4"), np.int64),
        (np.asarray([1, 2], np.uint64), np.int64),
        (np.asarray([1, 2], ">f4"), np.float64),
        (np.asarray([1, 2], np.float16), np.float64),
        (np.asarray([True, False]), np.bool_),
        (np.asarray([], np.int8), np.int64),
    ],
)
def test_numbers_are_of_three_kinds(array: Any, kind: type) -> None:
    found = items_of(array, "x")
    assert found.values.dtype == kind
    assert found.values.dtype.isnative
    assert found.values.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.asarray(["a", "b"]), "x has no numbers but <U1"),
        (np.asarray([1j]), "x has no numbers but complex128"),
        (np.asarray([None]), "x has no numbers but object"),
        (np.asarray(["2026-01-01"], "M8[D]"), "x has no numbers but datetime64"),
        (np.zeros((2, 2, 2)), "x has lists of lists in each event"),
        (np.asarray(1.0), "x is one number for all events"),
        (np.asarray([2**64 - 1], np.uint64), "x holds 18446744073709551615, and no whole number"),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        items_of(array, "x")


class TestAwkward:
    """Arrays of awkward come in, and go out."""

    @pytest.fixture
    def ak(self) -> Any:
        return pytest.importorskip("awkward")

    @pytest.mark.parametrize(
        ("given_array", "expected"),
        [
            ([[1.5], [], [2.5, 3.5]], [[1.5], [], [2.5, 3.5]]),
            ([[1], [], [2, 3]], [[1], [], [2, 3]]),
            ([1, 2, 3], [1, 2, 3]),
            ([True, False], [True, False]),
            ([[True], []], [[True], []]),
            ([1, None, 3], [1.0, NAN, 3.0]),
            ([[1, None], None, []], [[1.0, NAN], [], []]),
            ([[], []], [[], []]),
        ],
    )
    def test_arrays_become_items_and_arrays(self, ak: Any, given_array: Any, expected: Any) -> None:
        found = items_of(ak.Array(given_array), "x")
        for one, other in zip(as_lists(found), expected, strict=True):
            assert one == pytest.approx(other, nan_ok=True)
            assert type(one) is type(other)
        back = found.awkward()
        assert str(back.type) == str(ak.type(ak.Array(found.awkward())))
        assert len(back) == len(expected)
        assert items_of(back, "x").values == pytest.approx(found.values, nan_ok=True)

    def test_parts_and_fixed_sizes(self, ak: Any) -> None:
        array = ak.Array([[9], [1.0, 2.0], [], [3.0]])[1:]
        assert as_lists(items_of(array, "x")) == [[1.0, 2.0], [], [3.0]]
        assert as_lists(items_of(array[[2, 0]], "x")) == [[3.0], [1.0, 2.0]]
        fixed = ak.to_regular(ak.Array([[1, 2], [3, 4]]))
        assert as_lists(items_of(fixed, "x")) == [[1, 2], [3, 4]]
        assert as_lists(items_of(ak.from_numpy(np.ones((2, 3))), "x")) == [[1.0] * 3] * 2
        assert as_lists(items_of(array[:0], "x")) == []

    @pytest.mark.parametrize(
        ("given_array", "message"),
        [
            ([[[1.0]], []], "lists of lists"),
            (["a", "bc"], "x has no numbers but string"),
            ([["a"], []], "x has no numbers but"),
            ([{"pt": 1.0}], "x has no numbers but"),
            ([[{"pt": 1.0}]], "x has no numbers but"),
            ([1, [2]], "x has"),
        ],
    )
    def test_other_arrays_are_refused(self, ak: Any, given_array: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            items_of(ak.Array(given_array), "x")

    def test_evaluate_gives_an_array(self, ak: Any) -> None:
        arrays = {"pt": ak.Array([[50.0, 20.0], []]), "met": np.asarray([2.0, 1.0])}
        found = Expression("pt / met").evaluate(arrays)
        assert found.to_list() == [[25.0, 10.0], []]
        assert str(found.type) == "2 * var * float64"
        assert Expression("count(pt)").evaluate(arrays).to_list() == [2, 0]

    def test_masked_numbers_are_missing(self) -> None:
        masked = np.ma.masked_array([1, 2], mask=[False, True])
        assert as_lists(items_of(masked, "x")) == pytest.approx([1.0, NAN], nan_ok=True)

    def test_what_is_no_array_is_refused(self, ak: Any) -> None:
        for other in (Trap(), [1.0], 1.0):
            with pytest.raises(InputError, match=r"x is of the type \w+: it must be an array"):
                items_of(other, "x")
