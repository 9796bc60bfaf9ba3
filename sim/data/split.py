"""Which clinics can take part, and which of their records are held out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Ints, Mask, Table
from sim.foundation.problems import ScenarioError, suggest, unwritable
from sim.foundation.rng import Streams
from sim.scenario.data import DataFile, DataSpec, TableFile

_MOST_LINES = 5


def hold_out(
    strata: Ints, offsets: Ints, share: float, seed: int, purpose: str = "split", *, singles: bool = False
) -> NDArray[np.bool_]:
    """Choose the held-out records of every clinic, ``[record]``, stratum by stratum.

    A stratum with ``n`` records of a clinic gives ``floor(share n + 1/2)`` of them, but keeps at least one for
    training; a clinic that would hold out nothing gives one of its largest stratum. The counts do not depend on the
    seed, and a clinic's draw on no other clinic. Where all records are of one stratum, the draw depends on nothing but
    how many records the clinics have: no record's values move another one.

    Parameters
    ----------
    strata : ndarray of int64, ``[record]``
        Its class where the draw is to be by class, and otherwise the same for all.
    offsets : ndarray of int64, ``[clinic + 1]``
        Clinic ``k`` has the records ``offsets[k]:offsets[k + 1]``.
    purpose : str
        Name of the random streams.
    singles : bool
        Whether a clinic with several strata of one record each gives that of its first stratum.
    """
    held_out = np.zeros(len(strata), dtype=np.bool_)
    streams = Streams(seed, purpose)
    for clinic, (start, stop) in enumerate(pairwise(offsets.tolist())):
        own = strata[start:stop]
        found, sizes = np.unique(own, return_counts=True)
        totals = dict(zip(found.tolist(), sizes.tolist(), strict=True))
        counts = {stratum: min(int(share * n + 0.5), n - 1) for stratum, n in totals.items()}
        divisible = [stratum for stratum, n in totals.items() if n > 1]
        if divisible and not any(counts.values()):
            counts[max(divisible, key=totals.__getitem__)] = 1
        if singles and not divisible and len(counts) > 1:
            counts[min(counts)] = 1
        for stratum, count in counts.items():
            if count:
                order = streams.at(clinic=clinic, step=stratum).permutation(np.flatnonzero(own == stratum))
                held_out[start + order[:count]] = True
    return held_out


def patients_of(patient: Ints, y: Ints) -> tuple[Ints, Ints, Ints]:
    """Describe the patients to whom records belong.

    Returns
    -------
    index : ndarray of int64, ``[record]``
        The patient of each record, counted in order of appearance.
    first, class_of : ndarray of int64, ``[patient]``
        Its first record, and its class: of those among its records, the one that is rarest in all records.
    """
    _, first, index = np.unique(patient, return_index=True, return_inverse=True)
    order = np.argsort(first)
    index = np.argsort(order)[index]
    by_rarity = np.argsort(np.bincount(y), kind="stable")
    rarest = np.full(len(first), len(by_rarity))
    np.minimum.at(rarest, index, np.argsort(by_rarity)[y])
    return index, first[order], by_rarity[rarest]


def hold_out_patients(
    table: Table, among: Mask, share: float, seed: int, purpose: str, *, by_class: bool = False, singles: bool = False
) -> NDArray[np.bool_]:
    """Choose the held-out records of every clinic, ``[record]``, by patient, so that none stands on both sides.

    The draw is that of ``hold_out`` over patients, each at the clinic of its first record. A patient with records at
    several clinics is on the same side at all of them.

    Parameters
    ----------
    table : Table
        Sorted by clinic; without patients each record is one of its own.
    among : ndarray of bool, ``[record]``
        The records to draw among; the others stay where they are.
    by_class : bool
        Whether to draw within each class, a patient's being the one that ``patients_of`` gives it. One record's label
        then moves other records between the sides.
    """
    strata = table.stratum[among] if by_class else np.zeros(np.count_nonzero(among), dtype=np.int64)
    offsets = np.searchsorted(table.clinic[among], np.arange(len(table.names) + 1))
    held_out = np.zeros_like(among)
    if table.patient is None:
        held_out[among] = hold_out(strata, offsets, share, seed, purpose, singles=singles)
    else:
        index, first, stratum_of = patients_of(table.patient[among], strata)
        of_patient = hold_out(stratum_of, np.searchsorted(first, offsets), share, seed, purpose, singles=singles)
        held_out[among] = of_patient[index]
    return held_out


def at_sites(
    spec: DataSpec | TableFile, names: Sequence[str], clinic: Ints, *, public: bool = False
) -> tuple[Mask, list[str]]:
    """Find the records of the sites in use, ``[record]``, and one line for each unknown site.

    Parameters
    ----------
    spec : DataSpec or TableFile
        Its ``sites`` are used, or all but its ``exclude_sites``.
    clinic : ndarray of int64, ``[record]``
        Index into `names`, all clinics of the source.
    public : bool
        Whether lines may quote the clinics' names, which do not come from a file of the user's.
    """
    key, listed = ("exclude-sites", spec.exclude_sites) if spec.sites is None else ("sites", spec.sites)
    if listed is None:
        return np.ones(len(clinic), dtype=np.bool_), []
    problems = [
        f'scenario: data.{key}: unknown site "{site}"; {suggest(site, names) if public else "write it as in the file"}'
        for site in listed
        if site not in names
    ]
    found = np.isin(clinic, [code for code, name in enumerate(names) if name in listed])
    if key == "exclude-sites":
        found = ~found
        if not found.any():
            problems.append("scenario: data.exclude-sites: no record is left; exclude fewer")
    return found, problems


def without_small_clinics(spec: DataSpec, table: Table) -> Table:
    """Leave out the clinics with fewer than ``min-records`` records, and remark how many they are.

    Raises
    ------
    ScenarioError
        If none is left.
    """
    sizes = np.bincount(table.clinic, minlength=len(table.names))
    large = sizes >= (spec.min_records or 0)
    if large.all():
        return table
    if not large.any():
        fault = f"no clinic has {spec.min_records} records, and the largest has {sizes.max(initial=0)}"
        raise ScenarioError(f"scenario: data.min-records: {fault}; ask for fewer")
    kept = large[table.clinic]
    return replace(
        chosen_records(table, kept),
        names=tuple(name for name, is_large in zip(table.names, large, strict=True) if is_large),
        clinic=(np.cumsum(large) - 1)[table.clinic[kept]],
        remarks=(
            *table.remarks,
            f"data.min-records: {np.count_nonzero(~large):,} of {len(large):,} clinics have fewer than "
            f"{spec.min_records} records and are left out, with {np.count_nonzero(~kept):,} of {len(kept):,} records",
        ),
    )


def chosen_records(table: Table, kept: Mask) -> Table:
    """Return the table with some of its records, and the classes that are then left."""
    left = table.at(kept)
    if table.outcome.kind != "classes":
        return left
    classes, y = numbered(table.classes, left.y)
    return replace(left, classes=classes, y=y)


def numbered(names: Sequence[str], codes: Ints) -> tuple[tuple[str, ...], Ints]:
    """Return the names that some records have, and each record's index into them."""
    present, own = np.unique(codes, return_inverse=True)
    return tuple(names[code] for code in present), own


def clinic_problems(spec: DataSpec, table: Table) -> list[str]:
    """Return why clinics cannot take part, a line each or one for many.

    Those with fewer than two records and, unless such clinics are kept, with a single class or, where records are held
    out by class, with none of which two records could be told apart into training and held-out (unless the source
    names these).
    """
    names, y = table.names, table.stratum
    classes = int(y.max(initial=0)) + 1
    counts = np.bincount(table.clinic * classes + y, minlength=len(names) * classes).reshape(len(names), classes)
    records = counts.sum(axis=1)
    problems: list[str] = []
    whole = spec.test == "held-out-clinics"
    for size in (0,) if whole else (0, 1):
        fault = f"{size} record{'s' * (size != 1)}, too few to train and to test"
        problems += fault_lines(spec, names, records == size, fault)
    if spec.one_class == "refuse":
        keep = 'set data.one-class = "keep"'
        single = (records > 1) & (np.count_nonzero(counts, axis=1) == 1)
        problems += fault_lines(spec, names, single, "records of one class only", keep)
        undivided = (records > 1) & (counts.max(axis=1, initial=0) < 2)
        if spec.stratified and table.held_out is None and not whole:
            fault = "no two records of the same class, so none can be held out"
            problems += fault_lines(spec, names, undivided, fault, keep)
    return problems


def name_problems(table: Table) -> list[str]:
    """Return one line for the clinics, classes and features whose names hold control or formatting characters."""
    lines = []
    for what, known in (("clinics", table.names), ("classes", table.classes), ("features", table.features)):
        if faulty := [number for number, name in enumerate(known, 1) if unwritable(name)]:
            which = f"{len(faulty)} of {len(known)} {what}" if len(known) > 1 else f"the only one of the {what}"
            lines.append(
                f"scenario: data: {which} (the first is number {faulty[0]}) with a control or formatting character in "
                "the name; take it out"
            )
    return lines


def held_out_clinics(spec: DataSpec, names: Sequence[str]) -> Mask:
    """Find the clinics that are held out as a whole, ``[clinic]``: those of ``test-sites``.

    Raises
    ------
    ScenarioError
        If one is unknown, or none is left to train.
    """
    held_out = np.isin(np.array(names, dtype=object), np.array(spec.test_sites or (), dtype=object))
    problems = [
        f'scenario: data.test-sites: unknown site "{site}"; write it as in the data'
        for site in spec.test_sites or ()
        if site not in names
    ]
    if held_out.all():
        problems.append("scenario: data.test-sites: holds out every clinic, and none is left to train; name fewer")
    if problems:
        raise ScenarioError(problems)
    return held_out


def of_same_patients(table: Table, held_out: Mask) -> Mask:
    """Find the records whose patients have held-out ones too, ``[record]``; none where patients are not known."""
    if table.patient is None:
        return np.zeros_like(held_out)
    return np.isin(table.patient, table.patient[held_out])


def fault_lines(spec: DataSpec, names: Sequence[str], faulty: Mask, fault: str, keep: str = "") -> Iterator[str]:
    """Yield one line for each clinic with a fault, or one for all if there are many."""
    natural = spec.split == "natural"
    own = "take fewer data.clinics, or a milder split"
    if natural:
        own = "leave it out of data.sites" if spec.sites else "put it into data.exclude-sites"
    place, mend = ("data" if natural else "data.split"), ", or ".join(filter(None, (own, keep)))
    # Names out of a file may be a patient's where the wrong column is taken for the clinics.
    written = not natural or not isinstance(spec, DataFile)
    clinics = [
        f'clinic "{name}"' if written or name in (spec.sites or ()) else f"clinic {number} of {len(names)} by name"
        for number, (name, is_faulty) in enumerate(zip(names, faulty, strict=True), 1)
        if is_faulty
    ]
    if len(clinics) > _MOST_LINES:
        mend = mend.replace("leave it", "leave them").replace("put it", "put them")
        if natural and not keep:
            mend = "leave small clinics out with data.min-records, or name another column as data.clinic"
        shown = ", ".join(name.removeprefix("clinic ") for name in clinics[:_MOST_LINES])
        yield f"scenario: {place}: {len(clinics)} clinics have {fault} ({shown} and others); {mend}"
        return
    for name in clinics:
        yield f"scenario: {place}: {name} has {fault}; {mend}"
