"""The clinics' records: read, checked, dealt out to clinics, split, and scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.data.facts import Facts, Shared
from sim.data.parties import Places, known_patients, present
from sim.foundation.problems import ScenarioError
from sim.scenario.data import DataSpec, HeartDisease, Loader, Npz, TableFile
from sim.scenario.outcomes import Outcome
from sim.scenario.parties import Party

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


LARGEST = 1e6
"""Beyond this, up or down, a scaled feature without a public range is clamped: a public bound, whatever the records."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of all clinics, one clinic after another."""

    # [record, *feature] Scaled features: [record, feature] of a table, [record, channel, height, width] of images,
    # [record, channel, length] of signals
    x: NDArray[np.float32]
    y: Ints  # [record] Label of each record: its class, an index into `Federation.classes`, or see `sim.data.labels`
    offsets: Ints  # [clinic + 1] Clinic `k` has the records `offsets[k]:offsets[k + 1]`
    # row, patient: [record] Row of the source, counted from 0, and number of the patient, which tells no more than who
    # is the same; the row where there are no patients. Empty where nobody asks.
    row: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    patient: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    # [record, measure] What the label is made of, for scoring: an amount, or a time and whether the event was seen
    measured: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def clinic(self) -> Ints:
        """``[record]`` Whose it is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True, eq=False, kw_only=True)
class Federation(Shared):
    """Clinics with their training, validation and held-out records.

    Under a vertical layout the clinics' axis has the regions, or, without any, the label's holder alone. Features of a
    party that a region does not have are no numbers in its records.
    """

    test_names: tuple[str, ...]  # The clinics of the held-out records' axis; the same unless some are held out whole
    features: tuple[str, ...]  # What axis 1 of `x` is: a table's columns, or channels
    # train, test, validation: training, held-out and validation records, each in the source's order within a clinic; a
    # clinic may have no validation records. The arrays cannot be written to.
    train: Records
    test: Records
    validation: Records
    remarks: tuple[str, ...] = ()  # What a user should know of the records though nothing is wrong, a line each
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def unseen(self) -> bool:
        """Whether the held-out records are those of clinics that take no part in training."""
        return self.test_names != self.names

    @property
    def untrained(self) -> Records:
        """Records of the clinics that train, by their axis, which no model has seen in training."""
        return self.validation if self.unseen else self.test

    def for_tuning(self) -> "Federation":
        """Return what a choice of settings may go by: validation records to score on, and no held-out record."""
        none = Records(self.validation.x[:0], self.validation.y[:0], np.zeros_like(self.validation.offsets))
        return replace(self, test=self.validation, test_names=self.names, validation=none)

    @cached_property
    def facts(self) -> Facts:
        """What anybody but a clinic may know of it, and the digest of all records."""
        digest = blake2b(digest_size=32)
        for part in (self.train, self.test, self.validation):
            for array in (part.x, part.y, part.offsets, part.measured):
                digest.update(np.ascontiguousarray(array).data)
        sizes = tuple(np.diff(self.train.offsets).tolist())
        shared = {each.name: getattr(self, each.name) for each in fields(Shared)}
        if self.places.names:
            shared |= dict.fromkeys(("names", "everyone"), self.places.names)
        return Facts(
            **shared,
            sizes=tuple(sizes[region] for region in self.places.region_of) or sizes,
            records=sum(len(part.y) for part in (self.train, self.test, self.validation)),
            input_shape=self.train.x.shape[1:],
            fingerprint=digest.hexdigest(),
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """Records of the sites in use as a source gives them: complete, unsplit and unscaled."""

    # names, features, classes: as in `Federation`; no names where the source knows no clinics
    names: tuple[str, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    x: NDArray[Any]  # [record, *feature] Features in their own units
    # y, clinic, row: [record] Class, index into `names`, and row of the source, counted from 0
    y: Ints
    clinic: Ints
    row: Ints
    scaling: str  # How to scale the features
    ranges: Mapping[str, tuple[float, float]]  # Public range of each feature that public scaling maps to -1 to 1
    statistics: dict[str, str]  # What was used to make it complete
    outcome: Outcome = field(default_factory=Outcome)
    measured: NDArray[np.float64] | None = None  # [record, measure] As in `Records`
    patient: Ints | None = None  # [record] Number of the patient; without it each record is a patient of its own
    held_out: Mask | None = None  # [record] The source's own held-out records
    # With parties who do not know all patients, how many of the source's records are of those whom each knows
    known: tuple[int, ...] = ()
    found_levels: frozenset[str] = frozenset()  # Those features that are a category's levels as found among the records
    remarks: tuple[str, ...] = ()  # What a user should know of it though nothing is wrong, a line each
    problems: tuple[str, ...] = ()  # What is wrong with it, a line each; unless empty, the features must not be used

    @property
    def stratum(self) -> Ints:
        """``[record]`` The class; the same for all where records have none."""
        return self.y if self.outcome.of_classes else np.zeros_like(self.y)

    def at(self, some: Mask | Ints) -> "Table":
        """Return the table of some of the records, or of all in another order."""
        arrays = ("x", "y", "clinic", "row", "patient", "held_out", "measured")
        kept = {name: own[some] for name in arrays if (own := getattr(self, name)) is not None}
        return replace(self, **kept)


def load_federation(data_spec: DataSpec, seed: int, parties: Sequence[Party] = ()) -> Federation:
    """Read the data that a scenario names.

    The seed decides which clinic a record is dealt to, which records are held out, and made-up records. Parties share
    out the columns of all patients. Raises ``ScenarioError`` with one line for each problem.
    """
    from sim.data import deal, split

    table = _placed(data_spec, seed, parties)
    names, records = table.names, np.ones(len(table.y), dtype=np.bool_)
    by_class = data_spec.stratified
    trains = tests = np.ones(len(names), dtype=np.bool_)  # which clinics do
    if data_spec.test == "held-out-clinics":
        tests = split.held_out_clinics(data_spec, names)
        trains = ~tests
        held_out = tests[table.clinic]
        records = held_out | ~split.of_same_patients(table, held_out)
    elif table.held_out is not None:
        held_out = table.held_out
    else:
        singles = data_spec.one_class == "keep"
        held_out = split.hold_out_patients(
            table, records, data_spec.test_share, seed, "split", by_class=by_class, singles=singles
        )
    validation = np.zeros_like(held_out)
    if data_spec.validation_share:
        validation = split.hold_out_patients(
            table, records & ~held_out, data_spec.validation_share, seed, "validation", by_class=by_class
        )
    train = records & ~held_out & ~validation
    faults: list[str] = []
    for kind, side, due in (("training", train, trains), ("held-out", held_out, tests)):
        lacking = due & ~np.isin(np.arange(len(names)), table.clinic[side])
        faults += split.fault_lines(data_spec, names, lacking, f"no {kind} record")
    if faults:
        raise ScenarioError(faults)
    offsets = np.searchsorted(table.clinic, np.arange(len(names) + 1))
    places = Places.of(parties, names if data_spec.regions else (), table.features)
    x, statistics = _scaled(_with_trained_levels(table, train), offsets, train)
    if by_class:
        statistics["held-out records drawn by class"] = "non-private"
    if data_spec.split in deal.BY_CLASS:
        statistics["records dealt to clinics by label"] = "simulated"
    if data_spec.split == "feature-shift":
        x = deal.shifted(x, offsets, data_spec.shift or 0.0, seed)
    for region, columns in places.absent():
        x[offsets[region] : offsets[region + 1], list(columns)] = np.nan
    patient = table.row if table.patient is None else split.patients_of(table.patient, table.stratum)[0]
    measured = np.empty((len(x), 0)) if table.measured is None else table.measured
    sources = Records(x, table.y, offsets, table.row, patient, measured)
    return Federation(
        names=_chosen(names, trains),
        test_names=_chosen(names, tests),
        everyone=names,
        features=table.features,
        classes=table.classes,
        train=_part(sources, train, trains),
        test=_part(sources, held_out, tests),
        validation=_part(sources, validation, trains),
        statistics=table.statistics | statistics,
        clinics_of_a_patient=_clinics_of_a_patient(table, train),
        remarks=table.remarks,
        places=places,
        known=table.known,
        outcome=table.outcome,
    )


def clinic_names(data_spec: DataSpec, seed: int) -> tuple[str, ...]:
    """Name the clinics of the data that a scenario names; raises as :func:`load_federation`."""
    return _placed(data_spec, seed).names


def _placed(data_spec: DataSpec, seed: int, parties: Sequence[Party] = ()) -> Table:
    """Return the records at their clinics, one clinic after another; with parties, at their regions."""
    from sim.data import deal, split

    table = _read(data_spec, seed)
    if parties and not data_spec.regions:
        [holder] = [party.name for party in parties if party.label]
        table = replace(table, names=(holder,), clinic=np.zeros_like(table.clinic))
    if faults := split.name_problems(table):
        raise ScenarioError([*table.problems, *faults])
    try:
        names, clinic = deal.place(data_spec, table, seed)
        table = replace(table, names=names, clinic=clinic)
        if not data_spec.regions:
            table = _shared(table, parties, seed, ())
        table = split.without_small_clinics(data_spec, table)
        if data_spec.regions:
            table = _shared(table, parties, seed, table.names)
    except ScenarioError as error:
        raise ScenarioError([*table.problems, *error.problems]) from None
    faults = split.clinic_problems(data_spec, table)
    if table.problems or faults:
        raise ScenarioError([*table.problems, *faults])
    return table if (np.diff(table.clinic) >= 0).all() else table.at(np.argsort(table.clinic, kind="stable"))


def _shared(table: Table, parties: Sequence[Party], seed: int, regions: Sequence[str]) -> Table:
    """Return the records of patients whom all parties of their region know."""
    from sim.data import split

    if not parties:
        return table
    known = known_patients(parties, table.row if table.patient is None else table.patient, seed)
    if known.all():
        return table
    there = present(parties, regions)
    shared = np.logical_and.reduce(known | ~there[table.clinic].T)
    if not shared.any():
        raise ScenarioError("scenario: parties: the parties have no patient in common; give larger shares")
    of_region = [np.bincount(table.clinic[own], minlength=len(there)) for own in known]
    counts = tuple(int(of_region[party][region]) for region, party in np.argwhere(there).tolist())
    return replace(split.chosen_records(table, shared), known=counts)


def _read(data_spec: DataSpec, seed: int) -> Table:
    from sim.data import arrays, heart, synthetic, table

    if isinstance(data_spec, Loader):
        return _read(data_spec.as_file(), seed)
    if isinstance(data_spec, HeartDisease):
        return heart.read(data_spec)
    if isinstance(data_spec, TableFile):
        return table.read(data_spec)
    if isinstance(data_spec, Npz):
        return arrays.read(data_spec)
    return synthetic.make(data_spec, seed)


def _with_trained_levels(table: Table, train: Mask) -> Table:
    """Let levels that were found among records that do not train be as if they were not stated: 0 everywhere."""
    untrained = [
        place
        for place, feature in enumerate(table.features)
        if feature in table.found_levels and not table.x[train, place].any()
    ]
    if not untrained:
        return table
    x = table.x.copy()
    x[:, untrained] = 0
    return replace(table, x=x)


def _clinics_of_a_patient(table: Table, train: Mask) -> int:
    if table.patient is None:
        return 1
    stays = np.unique(np.stack([table.patient[train], table.clinic[train]]), axis=1)
    return int(np.unique(stays[0], return_counts=True)[1].max(initial=1))


def _chosen(names: tuple[str, ...], mask: Mask) -> tuple[str, ...]:
    return tuple(name for name, chosen in zip(names, mask, strict=True) if chosen)


def _part(everyone: Records, mask: Mask, clinics: Mask) -> Records:
    """Take records out of all; they are all of the clinics chosen."""
    counts = np.concatenate([[0], np.cumsum(mask)])
    sizes = np.diff(counts[everyone.offsets])[clinics]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    part = Records(
        everyone.x[mask],
        everyone.y[mask],
        offsets,
        everyone.row[mask],
        everyone.patient[mask],
        everyone.measured[mask],
    )
    for array in (part.x, part.y, part.offsets, part.row, part.patient, part.measured):
        array.setflags(write=False)
    return part


def _scaled(table: Table, offsets: Ints, train: Mask) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Scale records as their source asks, and clamp them: to their public ranges, or to ``LARGEST`` without.

    No record can then be so large that a network's outputs are no numbers.

    Parameters
    ----------
    offsets : ndarray of int64, ``[clinic + 1]``
        Clinic ``k`` has the records ``offsets[k]:offsets[k + 1]`` of the table, which is sorted by clinic.
    train : ndarray of bool, ``[record]``
        The training records, the only ones that per-clinic and pooled statistics come from; a clinic without any, which
        is held out as a whole, is scaled by its own records, as it would be on its first day.

    Returns
    -------
    x : ndarray of float32, ``[record, *feature]``
    statistics : dict of str to str
        What was used, as ``"public"`` or ``"non-private"``.
    """
    x = table.x
    if table.scaling == "none":
        return np.clip(x.astype(np.float32, copy=False), -LARGEST, LARGEST), {}
    result = np.empty(x.shape, dtype=np.float32)
    if table.scaling == "public":
        bounds = np.array([table.ranges.get(feature, (-1.0, 1.0)) for feature in table.features])
        low, high = (side.reshape(-1, *(1,) * (x.ndim - 2)) for side in bounds.T)
        for start, stop in pairwise(offsets.tolist()):
            own = np.clip(x[start:stop].astype(np.float64, copy=False), low, high)
            result[start:stop] = (2 * own - low - high) / (high - low)
        return result, {f"range of {feature}": "public" for feature in table.features if feature in table.ranges}
    groups = [0, len(x)] if table.scaling == "pooled" else offsets.tolist()
    for start, stop in pairwise(groups):
        own = x[start:stop][train[start:stop]]
        own = own if len(own) else x[start:stop]
        varies = own.max(axis=0) > own.min(axis=0)
        deviation = np.where(varies, own.std(axis=0, ddof=min(1, len(own) - 1)), 1.0)
        result[start:stop] = np.clip((x[start:stop] - own.mean(axis=0)) / deviation, -LARGEST, LARGEST)
    return result, {f"mean and deviation of {feature}": "non-private" for feature in table.features}
