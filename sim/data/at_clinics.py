"""What sets the records of some clinics apart: features shifted, columns absent, training labels that are wrong.

Each is a key of a group in ``[[clinics]]``, on any source and however records stand at clinics. A share of wrong labels
is of a clinic's training records alone, each flipped to another class that is drawn evenly. A column that a clinic
lacks is 0 in all its records after scaling, held-out ones too, and its indicator, if it has one, is 1. A shift makes of
a clinic's scaled feature ``exp(shift a) x + shift b`` with standard normal ``a`` and ``b``, as ``split =
"feature-shift"`` does at every clinic. Each has streams of its own, by the clinic's place among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from sim.data.deal import shifted_by
from sim.data.federation import Federation, Ints, Records, load_federation
from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.rng import stream
from sim.foundation.text import listed
from sim.scenario.clinics import groups_of
from sim.scenario.data import DataSpec
from sim.scenario.parties import Party
from sim.scenario.study import ClinicGroup

KEYS = ("label_noise", "missing_columns", "feature_shift")
"""Of a group of clinics."""


def load_records(
    data: DataSpec, clinics: Sequence[ClinicGroup], seed: int, parties: Sequence[Party] = ()
) -> Federation:
    """Read the data that a scenario names, as they are at its clinics; raises as :func:`load_federation`."""
    federation = load_federation(data, seed, parties)
    if not any(_differs(group) for group in clinics):
        return federation
    if not federation.outcome.of_classes and any(group.label_noise for group in clinics):
        fault = "flips classes, and what is predicted here has none; remove it"
        raise ScenarioError(f"scenario: clinics.label-noise: {fault}")
    group_of = groups_of(clinics, federation.everyone)
    own = {name: clinics[group_of[name]] for name in federation.everyone}
    columns = {
        position: [*_lacking(group, position, federation.features)]
        for position, group in enumerate(clinics)
        if group.missing_columns
    }
    places = {name: place for place, name in enumerate(federation.everyone)}

    def changed(part: Records, names: Sequence[str], *, train: bool) -> Records:
        x, y = part.x.copy(), part.y.copy()
        for name, (start, stop) in zip(names, pairwise(part.offsets.tolist()), strict=True):
            group, place = own[name], places[name]
            if group.feature_shift:
                draws = stream(seed, "clinic-shift", clinic=place)
                x[start:stop] = shifted_by(x[start:stop], group.feature_shift, draws)
            for column, value in columns.get(group_of[name], ()):
                x[start:stop, column] = value
            if train and group.label_noise:
                draws = stream(seed, "label-noise", clinic=place)
                y[start:stop] = _with_wrong(y[start:stop], group.label_noise, len(federation.classes), draws)
        for array in (x, y):
            array.setflags(write=False)
        return replace(part, x=x, y=y)

    return replace(
        federation,
        train=changed(federation.train, federation.names, train=True),
        validation=changed(federation.validation, federation.names, train=False),
        test=changed(federation.test, federation.test_names, train=False),
        statistics=federation.statistics | dict.fromkeys(_told(clinics, group_of), "simulated"),
    )


def records_key(data: DataSpec, clinics: Sequence[ClinicGroup], seed: int) -> tuple[str, str, int]:
    """Return what two runs have in common that train on the same records."""
    keys, differ = {*KEYS, "sites", "count"}, any(map(_differs, clinics))
    apart = [group.model_dump_json(include=keys) for group in clinics if differ]
    return data.model_dump_json(), "".join(apart), seed


def _differs(group: ClinicGroup) -> bool:
    return any(getattr(group, key) for key in KEYS)


def _with_wrong(y: Ints, share: float, classes: int, draws: np.random.Generator) -> Ints:
    """Flip that share of the labels, rounded to a whole number of records."""
    changed = y.copy()
    wrong = draws.permutation(len(y))[: int(share * len(y) + 0.5)]
    changed[wrong] = (y[wrong] + draws.integers(1, classes, len(wrong))) % classes
    return changed


def _lacking(group: ClinicGroup, position: int, features: Sequence[str]) -> list[tuple[int, float]]:
    """Return the place of each feature that a column of a group stands for, and what it is without that column.

    A column is a feature, or a category whose levels are features.
    """
    found: list[tuple[int, float]] = []
    for column in group.missing_columns:
        own = [f for f in features if f == column] or [f for f in features if f.startswith(f"{column}_")]
        if not own:
            place = f"scenario: clinics.{position}.missing-columns"
            raise ScenarioError(f'{place}: there is no feature "{column}"; {suggest(column, features)}')
        found += [(features.index(feature), 0.0) for feature in own]
        found += [(features.index(told), 1.0) for told in (f"{column}_missing",) if told in features]
    if len({feature for feature, _ in found}) == len(features):
        place = f"scenario: clinics.{position}.missing-columns"
        raise ScenarioError(f"{place}: nothing is left to predict from at these clinics; leave them a column")
    return found


def _told(clinics: Sequence[ClinicGroup], group_of: Mapping[str, int]) -> list[str]:
    """Say what is different where, a line each."""
    lines = []
    for position, group in enumerate(clinics):
        names = [name for name, own in group_of.items() if own == position]
        if not names:
            continue
        where = listed(names) if len(names) <= 3 else f"{len(names)} clinics"
        if group.label_noise:
            lines.append(f"{group.label_noise:.3g} of the training labels wrong at {where}")
        if group.missing_columns:
            lines.append(f"without {listed(group.missing_columns)} at {where}")
        if group.feature_shift:
            lines.append(f"features shifted by {group.feature_shift:g} at {where}")
    return lines
