"""The grammar of expressions: a text becomes a tree of three kinds of nodes, or is refused.

Python's own parser takes the text apart, and nothing of it is ever compiled or run.  Each of its
nodes is known by name in `_READ`, or the expression is refused, with the place and what to write
instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

from hepdask_ml.config import nearest
from hepdask_ml.data.jagged import MOST, Items, elementwise
from hepdask_ml.data.vocabulary import (
    CONSTANTS,
    FUNCTIONS,
    OPERATORS,
    OTHER_WORDS,
    chain,
    one_of,
    square_brackets,
)
from hepdask_ml.errors import InputError

LONGEST = 4000
"""Characters of an expression at most."""

DEEPEST = 100
"""Brackets and operators within each other at most."""

_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: bool | int | float


@dataclass(frozen=True, slots=True)
class Branch:
    """What a tree has for each event."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function of other nodes, or an operator, which is one."""

    function: Callable[..., Items]
    arguments: tuple[Node, ...]


Node: TypeAlias = Number | Branch | Call


@lru_cache(maxsize=1024)
def parsed(text: str) -> Node:
    """Take an expression apart.

    Parameters
    ----------
    text : str
        The expression.

    Returns
    -------
    Node
        What it consists of; equal texts share it.

    Raises
    ------
    InputError
        If it holds what is not known, is too long, or is nested too deeply.
    """
    try:
        _look_over(text)
        return _node(_tree(text), 0)
    except InputError as error:
        raise InputError(f'"{short(text)}" is no expression: {error}') from None


def short(text: str) -> str:
    """Show an expression in a message, in one line and not too long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
_JOINED = re.compile(
    r"(?<![\w.])(?>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?)(?=[^\W\d])"
)

_OF_C = {r"&&": "and", r"\|\|": "or", r"!(?!=)": "not", r"\?": "where(condition, yes, no)"}


def _look_over(text: str) -> None:
    """Refuse what the parser would warn of, or pass over."""
    if not text.strip():
        raise InputError("it is empty: name a branch at least")
    if len(text) > LONGEST:
        raise InputError(
            f"it has {len(text)} characters of {LONGEST} at most: give a function of Python"
        )
    bare = _STRING.sub("''", text)
    for sign, there in (("#", bare), ("\\", text), ("\0", text)):
        if sign in there:
            raise InputError(f"it holds the character {sign!a}: leave it out")
    for sign, word in _OF_C.items():
        if found := re.search(sign, bare):
            raise InputError(f'there is no "{found[0]}": write {word}')
    if found := _JOINED.search(bare):
        raise InputError(f"a letter follows the number {found[0]}: put a space or * between")


def _tree(text: str) -> ast.AST:
    one_line = re.sub(r"\s", " ", text).strip()
    try:
        return ast.parse(one_line, mode="eval").body
    except SyntaxError as error:
        said = (error.msg or "invalid syntax").rstrip(".")
        inside = error.offset is not None and 0 < error.offset <= len(one_line)
        place = f"at character {error.offset}" if inside else "at its end"
        raise InputError(f"{said} {place}: write it as Python is written") from None
    except UnicodeError:
        raise InputError("it holds characters that are no text: write it anew") from None
    except (ValueError, RecursionError, MemoryError):
        raise _nested() from None


def _nested() -> InputError:
    return InputError(
        f"its brackets and operators go more than {DEEPEST} deep: give a function of Python"
    )


_LOOP = ("there are no loops", "functions and operators go over all items")
_LIST = ("a list stands behind in only", "leave it out")
_REFUSED: Mapping[type[ast.AST], tuple[str, str]] = {
    ast.IfExp: ('there is no "if"', "write where(condition, yes, no)"),
    ast.Lambda: ("functions are not made in it", "write it out, or give a function of Python"),
    ast.ListComp: _LOOP,
    ast.GeneratorExp: _LOOP,
    ast.SetComp: _LOOP,
    ast.DictComp: _LOOP,
    ast.JoinedStr: ("text is no number", "leave it out"),
    ast.Slice: ("there are no slices", "write x[0] for an item, or x[condition] for some"),
    ast.List: _LIST,
    ast.Tuple: _LIST,
    ast.Set: _LIST,
    ast.MatMult: ("there is no operator @", "write the sum out"),
    ast.Is: ('there is no "is"', "write == instead"),
    ast.IsNot: ('there is no "is not"', "write != instead"),
    ast.In: ('"in" stands alone', "put brackets around it"),
    ast.NotIn: ('"not in" stands alone', "put brackets around it"),
    ast.Attribute: ("a dot stands only within the name of a branch", "write functions bare"),
    ast.Call: ("only a function with a name is called", "leave the second brackets out"),
}
"""What people try, and what they are told; all else that Python has is refused, too."""


def _refused(tree: ast.AST, place: Any) -> InputError:
    word = type(tree).__name__
    return _wrong(place, *_REFUSED.get(type(tree), (f"{word} is not known here", "leave it out")))


def _wrong(tree: Any, found: str, advice: str) -> InputError:
    return InputError(f"{found} at character {tree.col_offset + 1}: {advice}")


def _node(tree: ast.AST, depth: int) -> Node:
    if depth > DEEPEST:
        raise _nested()
    read = _READ.get(type(tree))
    if read is None:
        raise _refused(tree, tree)
    return read(tree, depth + 1)


def _constant(tree: ast.Constant, _: int) -> Node:
    value = tree.value
    if isinstance(value, bool | float):
        return Number(value)
    if isinstance(value, int):
        if value > MOST:
            raise _wrong(tree, f"a number is greater than {MOST}", "write it as 1e20")
        return Number(value)
    if isinstance(value, str):
        raise _wrong(tree, "text stands in branch(...) only", "leave out the quotes")
    raise _wrong(tree, f"{value!r:.20} is no number", "leave it out")


def _name(tree: ast.Name, _: int) -> Node:
    if tree.id in CONSTANTS:
        return Number(CONSTANTS[tree.id])
    return Branch(_checked(tree.id, tree))


def _attribute(tree: ast.Attribute, _: int) -> Node:
    """Take a name with dots: nothing is ever looked up in an object."""
    parts: list[str] = []
    inner: ast.AST = tree
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise _refused(tree, tree)
    return Branch(_checked(".".join([inner.id, *reversed(parts)]), tree))


def _checked(name: str, tree: ast.AST) -> str:
    if any(part.startswith("__") for part in name.split(".")):
        advice = f'write branch("{name}") if it is one'
        raise _wrong(tree, "names with two underscores in front are no branches", advice)
    return name


def _operation(tree: Any, function: ast.AST, *operands: Node) -> Node:
    found = OPERATORS.get(type(function))
    if found is None:
        raise _refused(function, tree)
    return Call(partial(elementwise, found), operands)


def _unary(tree: ast.UnaryOp, depth: int) -> Node:
    operand = _node(tree.operand, depth)
    if isinstance(tree.op, ast.USub) and isinstance(operand, Number):
        return Number(-operand.value)
    return _operation(tree, tree.op, operand)


def _binary(tree: ast.BinOp, depth: int) -> Node:
    return _operation(tree, tree.op, _node(tree.left, depth), _node(tree.right, depth))


def _boolean(tree: ast.BoolOp, depth: int) -> Node:
    return _operation(tree, tree.op, *[_node(each, depth) for each in tree.values])


def _comparison(tree: ast.Compare, depth: int) -> Node:
    first = _node(tree.left, depth)
    if len(tree.ops) == 1 and isinstance(tree.ops[0], ast.In | ast.NotIn):
        found = _membership(first, tree.comparators[0], depth)
        return _operation(tree, ast.Not(), found) if isinstance(tree.ops[0], ast.NotIn) else found
    for word in tree.ops:
        if type(word) not in OPERATORS:
            raise _refused(word, tree)
    others = [_node(each, depth) for each in tree.comparators]
    functions = [OPERATORS[type(word)] for word in tree.ops]
    return Call(partial(elementwise, partial(chain, functions)), (first, *others))


def _membership(value: Node, right: ast.expr, depth: int) -> Node:
    if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
        raise _wrong(right, 'no list stands behind "in"', "write it as x in (11, 13)")
    several = [_node(each, depth) for each in right.elts]
    return Call(partial(elementwise, one_of), (value, *several))


def _subscript(tree: ast.Subscript, depth: int) -> Node:
    return Call(square_brackets, (_node(tree.value, depth), _node(tree.slice, depth)))


def _call(tree: ast.Call, depth: int) -> Node:
    if not isinstance(tree.func, ast.Name):
        raise _refused(tree.func if isinstance(tree.func, ast.Attribute) else tree, tree)
    word = tree.func.id
    if tree.keywords or any(isinstance(each, ast.Starred) for each in tree.args):
        raise _wrong(tree, f"{word} has arguments with = or *", "give them bare")
    if word == "branch":
        return _branch(tree)
    if word not in FUNCTIONS:
        raise _wrong(tree, f"there is no function {word}", _nearest_function(word))
    function = FUNCTIONS[word]
    if not function.fewest <= len(tree.args) <= function.most:
        several = function.most > function.fewest
        asked = f"{function.fewest}" + (f" to {function.most}" if several else "")
        raise _wrong(tree, f"{word} has {len(tree.args)} arguments", f"it takes {asked}")
    return Call(function.apply, tuple(_node(each, depth) for each in tree.args))


def _nearest_function(word: str) -> str:
    if word in OTHER_WORDS:
        return f"write {OTHER_WORDS[word]}"
    near = nearest(word, [*FUNCTIONS, "branch"])
    return near[0] if near else f"there are {', '.join(FUNCTIONS)}"


def _branch(tree: ast.Call) -> Node:
    [argument] = tree.args if len(tree.args) == 1 else [None]
    name = argument.value if isinstance(argument, ast.Constant) else None
    if not isinstance(name, str) or not name:
        raise _wrong(tree, "branch takes a name in quotes", 'write it as branch("a:b")')
    return Branch(name)


_READ: Mapping[type[ast.AST], Callable[[Any, int], Node]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Compare: _comparison,
    ast.Subscript: _subscript,
    ast.Call: _call,
}
