"""Conditions such as ``epsilon_server<=8 and hours<=24``: comparisons of columns and numbers, evaluated by pandas."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from sim.foundation.problems import ScenarioError, suggest

DERIVED: Final = {
    "minutes": ("sim_seconds", 60.0),
    "hours": ("sim_seconds", 3600.0),
    "gigabytes_up": ("bytes_up", 1e9),
    "gigabytes_down": ("bytes_down", 1e9),
}
"""Names that a condition on runs may use beside columns: the column, and how much of it is one."""

_COMPARISONS: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_EXAMPLE: Final = 'write it like "epsilon_server<=8 and hours<=24"'
_LONGEST: Final = 1000


@dataclass(frozen=True)
class Condition:
    """A condition that holds nothing but comparisons of columns and numbers, joined by and, or and not."""

    text: str  # As it reads
    names: frozenset[str]  # The columns that decide it, with underscores for hyphens

    @property
    def clauses(self) -> tuple[Condition, ...]:
        """The conditions that must all hold: the operands of an outermost ``and``, or the condition itself."""
        node = ast.parse(self.text, mode="eval").body
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            return tuple(map(_condition, node.values))
        return (self,)

    def holds(self, table: pd.DataFrame) -> pd.Series[bool]:
        """Say of each row whether it meets the condition; one that lacks a value of ``names`` does not.

        Parameters
        ----------
        table : DataFrame
            With a column for each of ``names``.
        """
        columns = table.rename(columns=_written)[sorted(self.names)]
        quoted = ast.unparse(_Quoted().visit(ast.parse(self.text, mode="eval")))
        met = np.asarray(columns.eval(quoted, engine="python"), dtype=bool)
        return columns.notna().all(axis=1) & met


class _Quoted(ast.NodeTransformer):
    """Quotes names with a dot as pandas has them."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        return ast.Name(f"`{ast.unparse(node)}`")


def parse_condition(text: str, known: Collection[str], place: str) -> Condition:
    """Check a condition.

    Raises ScenarioError with one line for each unknown name and each thing that is no part of a condition.

    Parameters
    ----------
    text : str
        Comparisons (``<``, ``<=``, ``>``, ``>=``, ``==``, ``!=``, also chained) of names and numbers, joined by
        ``and``, ``or``, ``not`` and brackets. ``inf`` is infinity. A hyphen in a name is written as an underscore.
    known : collection of str
        The names that exist.
    place : str
        What the lines of an error start with.
    """
    if len(text) > _LONGEST:
        raise ScenarioError([f"{place}: has {len(text)} characters; {_EXAMPLE}"])
    try:
        node = ast.parse(text.strip(), mode="eval").body
        problems = list(_problems(node, set(map(_written, known))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ScenarioError([f'{place}: "{text}" is not a condition; {_EXAMPLE}']) from None
    if problems:
        raise ScenarioError(f"{place}: {problem}" for problem in problems)
    return _condition(node)


def _written(column: str) -> str:
    return column.replace("-", "_")


def _condition(node: ast.expr) -> Condition:
    return Condition(ast.unparse(node), frozenset(filter(None, map(_name, _operands(node)))))


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    for part in ast.walk(node):
        if isinstance(part, ast.Compare):
            yield from (part.left, *part.comparators)


def _name(node: ast.expr) -> str | None:
    """Return the name of a column, with its dots; None for anything else."""
    names = (ast.Name, ast.Attribute)
    inner = node.value if isinstance(node, ast.Attribute) else node
    return ast.unparse(node) if isinstance(node, names) and isinstance(inner, ast.Name) and inner.id != "inf" else None


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_number(node.operand)
    constant = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return constant or (isinstance(node, ast.Name) and node.id == "inf")


def _problems(node: ast.expr, known: Collection[str]) -> Iterator[str]:
    if isinstance(node, ast.BoolOp):
        for operand in node.values:  # noqa: PD011 (of Python's grammar)
            yield from _problems(operand, known)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _problems(node.operand, known)
    elif isinstance(node, ast.Compare) and all(isinstance(sign, _COMPARISONS) for sign in node.ops):
        named = [operand for operand in (node.left, *node.comparators) if not _is_number(operand)]
        for operand in named:
            name = _name(operand)
            if name is None:
                yield f'"{ast.unparse(operand)}" is neither a column nor a number; {_EXAMPLE}'
            elif name not in known:
                yield f'unknown name "{name}"; {suggest(name, sorted(known))}'
        if not named:
            yield f'"{ast.unparse(node)}" compares no column; {_EXAMPLE}'
    else:
        yield f'"{ast.unparse(node)}" is not a comparison of a column with a number; {_EXAMPLE}'
