"""Which features each party of a vertical layout holds."""

from collections.abc import Sequence

from sim.foundation.problems import ScenarioError, suggest
from sim.scenario.parties import Party


def held_columns(parties: Sequence[Party], features: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return the places of each party's columns among the features.

    A category's column stands for its levels, ``column_level``, and a filled-in one also for what says where.

    Raises
    ------
    ScenarioError
        With one line for each column that is no feature.
    """
    places = {name: place for place, name in enumerate(features)}
    stated = {column for party in parties for column in party.columns}
    problems, held = [], []
    for number, party in enumerate(parties):
        own: list[int] = []
        for column in party.columns:
            levels = [name for name in features if name.startswith(f"{column}_") and name not in stated]
            found = [places[name] for name in (column, *levels) if name in places]
            if not found:
                problems.append(
                    f'scenario: parties.{number}.columns: "{column}" is no feature; {suggest(column, tuple(features))}'
                )
            own += found
        held.append(tuple(sorted(set(own))))
    if problems:
        raise ScenarioError(problems)
    return tuple(held)
