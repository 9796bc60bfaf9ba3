"""The ledger of what was released to whom, and the one epsilon per adversary that follows from it.

A release is an event of differential privacy together with the clinic whose data it concerns and the adversaries who
see it. What an adversary learns about a clinic is the composition of every release that it sees; a single un-noised one
makes its epsilon infinite, and no other adversary's. The same class holds the planned and the executed releases, so
that the two can be compared.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from sim.privacy.accounting import Accountant, Mechanisms, compose, composed_epsilon, flatten, halved
from sim.privacy.events import DpEvent, dp
from sim.privacy.loss import Adjacency

Adversary = Literal["model-user", "peer-clinic", "server", "peers", "server-and-peers", "edge"]
ADVERSARIES: tuple[Adversary, ...] = ("model-user", "peer-clinic", "server")
"""Those of every run; clinics that collude are further ones where a run states how many."""
COLLUDING: tuple[Adversary, ...] = ("peers", "server-and-peers")
EDGE: tuple[Adversary, ...] = ("edge",)
"""The clinic's own edge server, where there are any; the server is the cloud then."""
COLUMN_OF: Mapping[Adversary, str] = {
    "model-user": "epsilon_model_user",
    "peer-clinic": "epsilon_peer",
    "server": "epsilon_server",
    "peers": "epsilon_peers",
    "server-and-peers": "epsilon_server_and_peers",
    "edge": "epsilon_edge",
}
"""The column of a study's table with each adversary's epsilon."""
REPLACE_COLUMN_OF = {adversary: f"{column}_replace" for adversary, column in COLUMN_OF.items()}
"""The same with everything under replacement."""
Unit = Literal["record", "clinic", "label"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """Something that leaves a clinic."""

    clinic: int  # The clinic whose data it concerns
    what: str  # What is released, for example "model" or "smashed data"
    adversaries: tuple[Adversary, ...]  # Everyone who sees it; order and repetition mean nothing
    # The mechanism that was applied to it, `NonPrivateDpEvent` if none. Parts that are noised over the same batch are
    # one release with one event, of their joint noise: composed as separate events they would count as sampled
    # independently. A noise multiplier is the noise's standard deviation (Laplace: scale) over the sensitivity under
    # the release's own adjacency: s / C where a record is added or removed, s / (2 C) where a row of norm C is replaced
    # by another, s / (sqrt(2) C) if rows are non-negative.
    event: "DpEvent"
    # What two neighbouring data sets differ in: one unit more or less, or one unit changed where its presence is
    # visible (a row that is sent for every record, a label)
    adjacency: Adjacency = "add-or-remove"
    # Whose one value the mechanism hides: a record, all the records of a clinic, or the label of a record alone. What
    # depends on labels in no other way than through a mechanism of unit "label" is no release of that unit.
    unit: Unit = "record"
    reason: str = ""  # Why an un-noised release is un-noised, or what the mechanism is; part of the release's identity

    def __post_init__(self) -> None:
        _check_adversaries(self.adversaries)
        for name, given, known in (("adjacency", self.adjacency, Adjacency), ("unit", self.unit, Unit)):
            if given not in get_args(known):
                raise ValueError(f"unknown {name} {given!r}; there are {', '.join(get_args(known))}")


_Key: TypeAlias = tuple[str, tuple[Adversary, ...], Adjacency, Unit, str]


class Ledger:
    """Every release of a run, equal events of the same kind counted together.

    Two ledgers are equal if every adversary sees the same mechanisms, equally often, on the same kinds of release of
    the same clinics, in whatever order and nesting they were added.
    """

    def __init__(self, releases: Iterable[Release] = ()) -> None:
        self._clinics: dict[int, Mapping[_Key, Counter[DpEvent]]] = {}  # whose values never change: they may be shared
        for release in releases:
            self.add(release)

    def add(self, release: Release) -> None:
        """Enter a release."""
        audience = tuple(sorted(set(release.adversaries)))
        key = release.what, audience, release.adjacency, release.unit, release.reason
        before = self._clinics.get(release.clinic, {})
        self._clinics[release.clinic] = {**before, key: before.get(key, Counter()) + flatten(release.event)}

    def add_alike(self, clinic: int, other: int) -> None:
        """Enter for a clinic of which nothing has been released yet the very releases of another."""
        if clinic in self._clinics:
            raise ValueError(f"clinic {clinic} has releases of its own")
        if other in self._clinics:
            self._clinics[clinic] = self._clinics[other]

    @property
    def releases(self) -> tuple[Release, ...]:
        """One release for each clinic, kind and audience, with its composed event, in a fixed order."""
        return tuple(
            Release(
                clinic=clinic,
                what=what,
                adversaries=adversaries,
                event=compose(atoms),
                adjacency=adjacency,
                unit=unit,
                reason=reason,
            )
            for clinic in sorted(self._clinics)
            for (what, adversaries, adjacency, unit, reason), atoms in sorted(
                self._clinics[clinic].items(), key=lambda item: item[0]
            )
        )

    def mechanisms(self, adversary: Adversary, clinic: int, unit: Unit = "record") -> Mechanisms:
        """Return every mechanism between a clinic's data and an adversary, converted to one unit.

        - ``"record"``: every release. One that hides a whole clinic covers each of its records; a changed record
          changes the clinic's contribution to any other, so twice its sensitivity counts. Randomised labels count as
          they are.
        - ``"clinic"``: releases of that unit; any other makes it infinite, since a mechanism for one record hides no
          clinic.
        - ``"label"``: where labels leave randomised, that alone, for everyone who sees anything: all else was computed
          from the randomised labels. Otherwise every release, since what hides a record hides its label. The records'
          features are public in this unit.
        """
        _check_adversaries([adversary])
        atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
        releases = self._clinics.get(clinic, {})
        visible = [(key, seen) for key, seen in releases.items() if adversary in key[1]]
        randomised = [(key, seen) for key, seen in releases.items() if key[3] == "label"]
        for (_, _, adjacency, protected, _), seen in (
            randomised if unit == "label" and visible and randomised else visible
        ):
            for atom, count in seen.items():
                if protected == "clinic" and unit != "clinic" and adjacency == "add-or-remove":
                    atoms[adjacency, halved(atom)] += count
                elif unit == "clinic" and protected != "clinic":
                    atoms[adjacency, dp.NonPrivateDpEvent()] += count
                else:
                    atoms[adjacency, atom] += count
        return atoms

    def epsilon(
        self,
        adversary: Adversary,
        clinic: int,
        delta: float,
        accountant: Accountant = "pld",
        unit: Unit = "record",
    ) -> float:
        """Epsilon of a unit of a clinic against an adversary, see :func:`sim.privacy.accounting.composed_epsilon`."""
        return composed_epsilon(self.mechanisms(adversary, clinic, unit), delta, accountant)

    def epsilons(
        self, adversary: Adversary, clinics: Iterable[int], delta: float, unit: Unit = "record"
    ) -> list[float]:
        """Epsilon of each of several clinics, found once for all that share their releases."""
        known: dict[int, float] = {}
        found = []
        for clinic in clinics:
            shared = id(self._clinics.get(clinic))
            if shared not in known:
                known[shared] = self.epsilon(adversary, clinic, delta, unit=unit)
            found.append(known[shared])
        return found

    def worst(self, adversary: Adversary, delta: float, clinics: Iterable[int], unit: Unit = "record") -> float:
        """Epsilon of the least protected of the clinics, 0 if there are none."""
        return max(self.epsilons(adversary, clinics, delta, unit), default=0.0)

    def __eq__(self, other: object) -> bool:
        return self._views() == other._views() if isinstance(other, Ledger) else NotImplemented

    def _views(self) -> "dict[tuple[Any, ...], Counter[DpEvent]]":
        """List what each adversary sees of each clinic, kind by kind, without what reveals nothing."""
        views: defaultdict[tuple[Any, ...], Counter[DpEvent]] = defaultdict(Counter)
        for clinic, kinds in self._clinics.items():
            for (what, adversaries, *how), atoms in kinds.items():
                for adversary in adversaries:
                    views[adversary, clinic, what, *how].update(atoms)
        return {view: atoms for view, atoms in views.items() if atoms}

    def to_json(self) -> str:
        """Write the ledger as JSON: events by the names of their class and fields, infinity as a string."""
        plain = [vars(release) | {"event": _to_plain(release.event)} for release in self.releases]
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Ledger":
        """Read what :meth:`to_json` wrote; ``ValueError`` if the text is no ledger.

        Events are looked up among dp-accounting's only, and not with its own ``from_named_tuple``, which would import
        and call whatever the text names.
        """
        try:
            rows = [{field.name: row[field.name] for field in fields(Release)} for row in json.loads(text)]
            read = ({"adversaries": tuple(row["adversaries"]), "event": _from_plain(row["event"])} for row in rows)
            return cls(Release(**row | parts) for row, parts in zip(rows, read, strict=True))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no ledger: {error!r}") from error


def _check_adversaries(names: Iterable[str]) -> None:
    if unknown := set(names) - set(COLUMN_OF):
        raise ValueError(f"unknown adversary {', '.join(sorted(unknown))}; there are {', '.join(COLUMN_OF)}")


def adversaries_of(colluding_clinics: int, *, edges: bool = False) -> tuple[Adversary, ...]:
    """Return the adversaries of a run in which so many clinics may collude, with edge servers or without."""
    return (*ADVERSARIES, *(COLLUDING if colluding_clinics else ()), *(EDGE if edges else ()))


def _to_plain(value: Any) -> Any:
    """Turn an event, or a part of its named tuple, into what JSON can hold."""
    if isinstance(value, dp.DpEvent):
        value = value.to_named_tuple()
    if hasattr(value, "class_name"):
        return {"class": value.class_name} | {name: _to_plain(getattr(value, name)) for name in value._fields[2:]}
    if isinstance(value, list | tuple):
        return [_to_plain(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _from_plain(value: Any) -> Any:
    """Undo :func:`_to_plain`."""
    if isinstance(value, dict):
        kinds = {
            n: k for n, k in vars(dp.dp_event).items() if isinstance(k, type) and issubclass(k, dp.dp_event.DpEvent)
        }
        if value["class"] not in kinds:
            raise ValueError(f"{value['class']!r} is not an event of dp-accounting")
        return kinds[value["class"]](**{name: _from_plain(part) for name, part in value.items() if name != "class"})
    if isinstance(value, list):
        return [_from_plain(part) for part in value]
    return float(value) if isinstance(value, str) else value
