"""Tables of texts on the terminal."""

import re
from collections.abc import Collection, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

SHOWN_AS = {"privacy.epsilon": "Target ε"}
"""Headings of swept keys that have names of their own."""


def table_of(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    caption: str,
    baselines: Collection[str] = frozenset(),
) -> Table:
    """Build a table whose rows are grouped by their column "Method"; of `baselines` a block is said."""
    table = Table(
        title=Text(title, style="bold"),
        caption=Text(caption, style="dim"),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for position, name in enumerate(names):
        heading = Text(re.sub(r" |(?<=[.-])", "\n", name))
        table.add_column(heading, justify="left" if position == 0 else "right", overflow="fold", no_wrap=position == 0)
    methods, begun = [row[names.index("Method")] for row in rows], False
    for place, (method, row) in enumerate(zip(methods, rows, strict=True)):
        if row[0] in baselines and not begun:
            begun = True
            table.add_row(Text("Baselines", style="italic"))
        ends = method in methods[:place] and methods[place + 1 : place + 2] != [method]
        table.add_row(*map(Text, row), end_section=ends)
    return table
