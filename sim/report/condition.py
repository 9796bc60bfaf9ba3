"""Conditions such as ``epsilon_server<=8 and hours<=24``: comparisons of named numbers, joined by and, or and not."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sim.foundation.problems import ScenarioError, suggest

__all__ = ["Condition", "parse_condition"]

_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[float, float], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_EXAMPLE: Final = 'write it like "epsilon_server<=8 and hours<=24"'
_LONGEST: Final = 1000


@dataclass(frozen=True)
class Condition:
    """A checked condition.

    Attributes
    ----------
    text : str
        As it reads.
    names : frozenset of str
        The columns that decide it.
    """

    text: str
    names: frozenset[str]
    _node: ast.expr

    @property
    def clauses(self) -> tuple[Condition, ...]:
        """The conditions that must all hold: the operands of an outermost ``and``, or the condition itself."""
        node = self._node
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            return tuple(_condition(operand) for operand in node.values)
        return (self,)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Say whether the condition holds; what hangs on an unknown value (NaN) does not.

        Parameters
        ----------
        values : mapping of str to float
            At least those of ``names``.
        """
        return _truth(self._node, values) is True


def parse_condition(text: str, known: Collection[str], place: str) -> Condition:
    """Check a condition.

    Parameters
    ----------
    text : str
        Comparisons (``<``, ``<=``, ``>``, ``>=``, ``==``, ``!=``, also chained) of names and numbers, joined by
        ``and``, ``or``, ``not`` and brackets. ``inf`` is infinity. A hyphen in a name is written as an underscore.
    known : collection of str
        The names that exist.
    place : str
        What the lines of an error start with.

    Returns
    -------
    Condition

    Raises
    ------
    ScenarioError
        With one line for each unknown name and each thing that is no part of a condition.
    """
    if len(text) > _LONGEST:
        raise ScenarioError([f"{place}: has {len(text)} characters; {_EXAMPLE}"])
    try:
        node = ast.parse(text.strip(), mode="eval").body
        problems = list(_problems(node, {_written(name) for name in known}))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ScenarioError([f'{place}: "{text}" is no condition; {_EXAMPLE}']) from None
    if problems:
        raise ScenarioError(f"{place}: {problem}" for problem in problems)
    return _condition(node)


def _condition(node: ast.expr) -> Condition:
    compared = (part for part in ast.walk(node) if isinstance(part, ast.Compare))
    operands = (operand for part in compared for operand in (part.left, *part.comparators) if _number(operand) is None)
    return Condition(ast.unparse(node), frozenset(filter(None, map(_name, operands))), node)


def _written(column: str) -> str:
    return column.replace("-", "_")


def _name(node: ast.AST) -> str | None:
    """Return a name, with its dots; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (table := _name(node.value)) is not None:
        return f"{table}.{node.attr}"
    return None


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and (number := _number(node.operand)) is not None
    ):
        return -number
    return None


def _problems(node: ast.expr, known: Collection[str]) -> Iterator[str]:
    if isinstance(node, ast.BoolOp):
        for operand in node.values:
            yield from _problems(operand, known)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _problems(node.operand, known)
    elif isinstance(node, ast.Compare):
        for operator_ in node.ops:
            if type(operator_) not in _COMPARISONS:
                yield f'"{ast.unparse(node)}" compares in a way that numbers do not; take <, <=, >, >=, == or !='
        for operand in (node.left, *node.comparators):
            if _number(operand) is None:
                yield from _problems_of_name(operand, known)
    else:
        yield f'"{ast.unparse(node)}" is no comparison of a column with a number; {_EXAMPLE}'


def _problems_of_name(node: ast.expr, known: Collection[str]) -> Iterator[str]:
    name = _name(node)
    if name is None:
        yield f'"{ast.unparse(node)}" is neither a column nor a number; {_EXAMPLE}'
    elif name not in known:
        yield f'unknown name "{name}"; {suggest(name, sorted(known))}'


def _truth(node: ast.expr, values: Mapping[str, float]) -> bool | None:
    """Evaluate in Kleene's three-valued logic; None is unknown."""
    if isinstance(node, ast.BoolOp):
        operands = [_truth(operand, values) for operand in node.values]
        decisive = isinstance(node.op, ast.Or)
        if decisive in operands:
            return decisive
        return None if None in operands else not decisive
    if isinstance(node, ast.UnaryOp):
        operand = _truth(node.operand, values)
        return None if operand is None else not operand
    if not isinstance(node, ast.Compare):
        raise TypeError(f"{type(node).__name__} is no condition")
    numbers = [_value(operand, values) for operand in (node.left, *node.comparators)]
    if any(map(math.isnan, numbers)):
        return None
    pairs = zip(node.ops, numbers, numbers[1:], strict=False)
    return all(_COMPARISONS[type(operator_)](left, right) for operator_, left, right in pairs)


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    number = _number(node)
    return float(values[_name(node) or ""]) if number is None else number
