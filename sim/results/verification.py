"""What ``suture verify`` holds against what: a run's folder, and a study's.

A run is sound if its log's chain is, if every file is the one whose hash stands in the log, if log, ledger and plan
agree, if the settings and counts give the very mechanisms of the ledger (:mod:`sim.privacy.recount`), and if an epsilon
that is counted from them by a second route (:mod:`sim.privacy.second_opinion`) stands in every place that claims one,
and if its scores are those of its predictions (:mod:`sim.results.scores`).
Nothing that a folder names is imported or read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.foundation.chain import read_chain
from sim.foundation.plugins import loaded, registered
from sim.foundation.problems import ScenarioError
from sim.privacy.ledger import COLUMN_OF, REPLACE_COLUMN_OF, Adversary, Ledger, adversaries_of
from sim.privacy.recount import RECOUNTED, Drawn, Method, alike, count_faults, noise_faults, seen, sum_faults
from sim.privacy.recounted import Seen, label_holders
from sim.privacy.risk import membership_risk
from sim.privacy.second_opinion import of_patient, same, second_drawn, second_epsilon
from sim.privacy.statement_text import STATEMENT_FILE, statement_text
from sim.privacy.tuning_price import told_of, tuning_of, with_trials
from sim.results.audit_log import AUDIT_FILE, first_fault, seal_faults
from sim.results.plain import from_plain
from sim.results.reading import file_bytes, read_parquet
from sim.results.scores import score_faults
from sim.results.store import RUN_FILE
from sim.scenario.lookup import METHODS
from sim.scenario.model import Model
from sim.scenario.privacy import Privacy
from sim.scenario.spec import digest_of

TOLD = 20
"""How many disagreements of one kind are listed."""
Record = Mapping[str, Any]


def run_faults(folder: Path, record: Record) -> list[str]:
    """Say everything that disagrees in a run's folder.

    A line each, which names the file and the field; empty for a sound run.

    Parameters
    ----------
    record : mapping
        Its ``run.json``, as it stands in the file; of a run that finished.
    """
    faults: list[str] = []
    for check in (_log_faults, _name_faults, _claim_faults, _statement_faults, score_faults):
        try:
            faults += check(folder, record)
        except ScenarioError as error:
            faults += error.problems
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            detail = f"{error}"[:40] if isinstance(error, KeyError) else type(error).__name__
            faults.append(f"{folder / RUN_FILE}: is not as a run writes it ({detail})")
    return list(dict.fromkeys(faults))


def _log_faults(folder: Path, record: Record) -> list[str]:
    log, content = folder / AUDIT_FILE, file_bytes(folder, AUDIT_FILE)
    if content is None:
        return [f"{log}: is missing"]
    if fault := first_fault(content, record):
        return [f"{log}: {fault}"]
    return seal_faults(read_chain(content).entries, folder, record)


def _name_faults(folder: Path, record: Record) -> list[str]:
    """Hold the run's name, a hash of its settings, data and code, against all of them."""
    known = record["data-sha256"], record["public-head"], record["code-sha256"]
    name = digest_of(record["spec"], *known, record["results-version"])[:16]
    places = {
        f"{folder / RUN_FILE}: row.run_id": record["row"]["run_id"],
        f"{folder / RUN_FILE}: plan.run_id": record["plan"]["run_id"],
        f"{folder / RUN_FILE}: privacy.statement.run": record["privacy"]["statement"]["run"],
    }
    return [
        f"{place}: is {told}, but settings and data are those of {name}"
        for place, told in places.items()
        if told != name
    ]


def _statement_faults(folder: Path, record: Record) -> list[str]:
    path, content = folder / STATEMENT_FILE, file_bytes(folder, STATEMENT_FILE)
    if content is None:
        return [f"{path}: is missing"]
    expected = statement_text(from_plain(record["privacy"]["statement"])).splitlines()
    found = content.decode("utf-8", errors="replace").splitlines()
    for number, (line, wanted) in enumerate(zip(found, expected, strict=False), 1):
        if line != wanted:
            return [f"{path}: line {number} is not what {RUN_FILE}: privacy.statement says"]
    return [] if len(found) == len(expected) else [f"{path}: line {min(len(found), len(expected)) + 1}: ends elsewhere"]


def _claim_faults(folder: Path, record: Record) -> list[str]:
    file, plan = folder / RUN_FILE, record["plan"]
    ledger = Ledger.from_json(record["privacy"]["releases"])
    drawn = Drawn.model_validate_json(json.dumps(plan["drawn"]))
    method = _method(record, ledger, drawn)
    if foreign := sorted({*method.privacy.mechanisms} - RECOUNTED):
        return [
            f"{file}: spec.privacy.mechanism: {foreign[0]} is not Suture's own, so that no epsilon can be recounted"
        ]
    names = [clinic["name"] for clinic in plan["clinics"]]
    if not drawn.of(len(names)):
        return [f"{file}: plan.drawn: has not a value for each of {len(names)} clinics"]
    unit, delta = method.privacy.unit, method.privacy.delta or 0.0
    faults = [f"{file}: {fault}" for fault in count_faults(method, drawn, plan, record["spec"])]
    faults += [f"{file}: {fault}" for fault in noise_faults(method, drawn, plan)]
    rounds = read_parquet(folder, "rounds.parquet")
    returned = () if rounds is None else rounds["returned"].tolist()
    faults += [f"{file}: {fault}" for fault in sum_faults(method, drawn, returned)]
    faults += _statistics_faults(file, record)
    views = [seen(method, drawn, k) for k in range(len(names))]
    faults += [
        f"{file}: privacy.releases: clinic {k}, {a}: is not what settings and counts give"
        for k, view in enumerate(views)
        for a in view
        if not alike(ledger.mechanisms(a, k, unit), view[a])
    ]
    epsilons = {a: [second_epsilon(view[a], delta) for view in views] for a in views[0]}
    faults += _disagreements(_claims(folder, record), epsilons)
    replaced = {a: [second_epsilon(view[a], delta, replace_one=True) for view in views] for a in views[0]}
    faults += _disagreements(_replace_claims(file, record), replaced)
    faults += [
        f"{file}: {place}.{column}: is {record[place][column]}, but no clinic is said to collude"
        for absent in COLUMN_OF.keys() - epsilons.keys()
        for column in (COLUMN_OF[absent], REPLACE_COLUMN_OF[absent])
        for place in ("row", "plan")
        if record[place].get(column) is not None
    ]
    faults += _target_faults(file, method, epsilons)
    faults += _other_claims(file, record, method, drawn, views, epsilons)
    faults += _tuning_faults(file, record, ledger)
    return _shortened(faults)


def _method(record: Record, ledger: Ledger, drawn: Drawn) -> Method:
    spec = record["spec"]
    strategy, name = spec["strategy"], spec["strategy"]["name"]
    privacy = Privacy.model_validate_json(json.dumps(spec["privacy"]), by_alias=True, by_name=False)
    train, clinics = spec["train"], record["plan"]["clinics"]
    model = Model.model_validate_json(json.dumps(spec["model"]), by_alias=True, by_name=False)
    tight = False
    if model.name == "factory" and drawn.release_noise:
        tight = any(
            math.isclose(
                getattr(getattr(release.event, "event", release.event), "noise_multiplier", 0.0),
                drawn.release_noise[release.clinic] / math.sqrt(2),
            )
            for release in ledger.releases
            if release.what == "smashed"
        )
    statistics = record["privacy"]["statistics"]
    together = max(1, math.floor(train["participation"] * len(clinics) + 0.5))
    return Method(
        name=name,
        cut=strategy["cut"],
        privacy=privacy,
        model=model,
        tight_rows=tight,
        preprocessing=frozenset(name for name, marking in statistics.items() if marking == "non-private"),
        pooled=spec["data"].get("scaling") == "pooled",
        parties=len(spec.get("parties", ())),
        edges=bool(spec.get("edges")),
        label_holders=label_holders(spec, [clinic["name"] for clinic in clinics]),
        together=together,
        invited=min(len(clinics), math.ceil(together * train["over-select"] - 1e-9)),
        one_step=train["optimizer"] == "sgd"
        and all(train["local-epochs"] * math.ceil(each["records"] / train["batch-size"]) == 1 for each in clinics),
        own_parts=name in registered(METHODS) and loaded(METHODS, name).clinic_parts == "own",
    )


def _statistics_faults(file: Path, record: Record) -> list[str]:
    """Hold the list of statistics against the settings, which say when preprocessing uses the records."""
    data, listed = record["spec"]["data"], record["privacy"]["statistics"]
    missing = data.get("missing")
    stated = {*data.get("levels", ()), *data.get("exclude", ())}
    stated |= {c for c in data.get("categorical", ()) if isinstance(missing, Mapping) and missing.get(c) == "drop"}
    due = {f"levels of {column}" for column in data.get("categorical", ()) if column not in stated}
    if missing == "drop":
        due.add("which columns are dropped for missing values")
    if data.get("stratified"):
        due.add("held-out records drawn by class")
    non_private = {name for name, marking in listed.items() if marking == "non-private"}
    faults = [f"{name} is not listed as non-private" for name in sorted(due - non_private)]
    scaled = any(name.startswith("mean and deviation of ") for name in non_private)
    if scaled != (data.get("scaling") in ("per-clinic", "pooled")):
        faults.append(f"is not what data.scaling = {json.dumps(data.get('scaling'))} uses")
    return [f"{file}: privacy.statistics: {fault}" for fault in faults]


def _number(value: Any) -> float:
    """Return a claimed epsilon, not-a-number where it is none."""
    plain = from_plain(value)
    return float(plain) if isinstance(plain, int | float) and not isinstance(plain, bool) else math.nan


def _adversaries(record: Record) -> tuple[Adversary, ...]:
    return adversaries_of(record["spec"]["privacy"]["colluding-clinics"], edges=bool(record["spec"].get("edges")))


def _claims(folder: Path, record: Record) -> Iterator[tuple[str, Adversary, int | None, float]]:
    """Yield every epsilon that is claimed: its place, against whom, of which clinic (None: the worst), the value."""
    file, plan = folder / RUN_FILE, record["plan"]
    for a in _adversaries(record):
        yield f"{file}: row.{COLUMN_OF[a]}", a, None, _number(record["row"][COLUMN_OF[a]])
        yield f"{file}: plan.{COLUMN_OF[a]}", a, None, _number(plan[COLUMN_OF[a]])
        for k, clinic in enumerate(plan["clinics"]):
            yield f"{file}: plan.clinics.{k}.epsilon.{a}", a, k, _number(clinic["epsilon"][a])
    for i, row in enumerate(record["privacy"]["statement"]["adversaries"]):
        a = row["adversary"]
        yield f"{file}: privacy.statement.adversaries.{i}.epsilon", a, None, _number(row["epsilon"])
        names = [clinic["name"] for clinic in plan["clinics"]]
        k = names.index(row["clinic"])
        yield f"{file}: privacy.statement.adversaries.{i}.clinic, which is {k}", a, k, _number(row["epsilon"])
    for stem in ("clinics", "rounds"):
        path = folder / f"{stem}.parquet"
        table = read_parquet(folder, path.name)
        if table is None:
            yield f"{path}: cannot be read", "server", None, math.nan
            continue
        if stem == "clinics":  # of those that train: nothing of the others' is released
            table = table[table["name"].isin([clinic["name"] for clinic in plan["clinics"]])]
        for a in _adversaries(record):
            values = [_number(value) for value in table.get(COLUMN_OF[a], ())]
            if stem == "rounds":
                last = values[-1] if values and values == sorted(values) else math.nan
                yield f"{path}: {COLUMN_OF[a]}", a, None, last
            elif len(values) != len(plan["clinics"]):
                yield f"{path}: {COLUMN_OF[a]}", a, None, math.nan
            else:
                for k, value in enumerate(values):
                    yield f"{path}: {COLUMN_OF[a]}, row {k}", a, k, value


def _replace_claims(file: Path, record: Record) -> Iterator[tuple[str, Adversary, int | None, float]]:
    """Yield every epsilon that is claimed for replace-one, as ``_claims`` does."""
    for a in _adversaries(record):
        for place in ("row", "plan"):
            column = REPLACE_COLUMN_OF[a]
            yield f"{file}: {place}.{column}", a, None, _number(record[place][column])
    for i, row in enumerate(record["privacy"]["statement"]["adversaries"]):
        place = f"{file}: privacy.statement.adversaries.{i}.replace-epsilon"
        yield place, row["adversary"], None, _number(row["replace-epsilon"])


def _disagreements(
    claims: Iterator[tuple[str, Adversary, int | None, float]], epsilons: Mapping[Adversary, list[float]]
) -> list[str]:
    faults = []
    for place, adversary, clinic, claimed in claims:
        recounted = max(epsilons[adversary], default=0.0) if clinic is None else epsilons[adversary][clinic]
        if math.isnan(claimed):
            faults.append(f"{place}: no epsilon can be read")
        elif not same(claimed, recounted):
            faults.append(f"{place}: {claimed:.6g} is claimed, settings and counts give {recounted:.6g}")
    return faults


def _target_faults(file: Path, method: Method, epsilons: Mapping[Adversary, list[float]]) -> list[str]:
    privacy = method.privacy
    opponent: Adversary = privacy.opponent(method.cut)
    targets: dict[str, tuple[float | None, Adversary]] = {"stop-at-epsilon": (privacy.stop_at_epsilon, opponent)}
    if privacy.mechanism != "label-rr":
        targets["epsilon"] = privacy.epsilon, opponent
    targets["epsilon-server"] = privacy.epsilon_server, "server"
    return [
        f"{file}: spec.privacy.{key}: {limit:.6g} is asked for, the noise gives {worst:.6g} against the {adversary}"
        for key, (limit, adversary) in targets.items()
        if limit is not None
        for worst in [max(epsilons[adversary], default=0.0)]
        if worst > limit and not same(worst, limit)
    ]


def _other_claims(
    file: Path,
    record: Record,
    method: Method,
    drawn: Drawn,
    views: list[dict[Adversary, Seen]],
    epsilons: Mapping[Adversary, list[float]],
) -> list[str]:
    """Hold what else follows from the settings: delta, unit, a label's epsilon, a patient's, membership."""
    privacy, statement = method.privacy, record["privacy"]["statement"]
    label = method.label_noise
    of_label = None if label is None else (label if any(drawn.steps) else 0.0)
    if of_label and "held-out records drawn by class" in method.preprocessing:
        of_label = math.inf
    settings, stated = record["spec"]["privacy"], {"delta": privacy.delta, "unit": privacy.unit}
    fields = {f"privacy.statement.{key}": (statement[key], wanted) for key, wanted in stated.items()} | {
        f"{place}.{key}": (record[place].get(key), wanted)
        for place in ("row", "plan")
        for key, wanted in {**stated, "mechanism": privacy.mechanism, "method": method.name}.items()
    }
    fields |= {
        f"privacy.statement.settings.{key}": (value, settings.get(key)) for key, value in statement["settings"].items()
    }
    faults = [
        f"{file}: {key}: is {told}, and the settings say {said}" for key, (told, said) in fields.items() if told != said
    ]
    for key, told in (
        ("row.epsilon_label", record["row"]["epsilon_label"]),
        ("plan.epsilon_label", record["plan"]["epsilon_label"]),
        ("privacy.statement.label-epsilon", statement["label-epsilon"]),
    ):
        if (told is None) != (of_label is None) or (of_label is not None and not same(_number(told), of_label)):
            faults.append(f"{file}: {key}: is {told}, and the settings say {of_label}")
    names = [clinic["name"] for clinic in record["plan"]["clinics"]]
    for i, row in enumerate(statement["adversaries"]):
        # Of clinics that a target gives the same epsilon, either accountant may find another the worst.
        worst = names.index(row["clinic"])
        risk = membership_risk(views[worst][row["adversary"]], epsilons[row["adversary"]][worst])
        place = f"{file}: privacy.statement.adversaries.{i}"
        claims = {"advantage": row["advantage"]}
        claims |= {f"true-positive-rates.{rate}": claim for rate, claim in row["true-positive-rates"].items()}
        for (key, claim), value in zip(claims.items(), (risk.advantage, *risk.true_positive_rates), strict=True):
            if not same(_number(claim), value):
                faults.append(f"{place}.{key}: {claim} is claimed, settings and counts give {value:.6g}")
    if statement["patients"] is not None:
        faults += _patient_faults(file, record, views)
    return faults


def _patient_faults(file: Path, record: Record, views: list[dict[Adversary, Seen]]) -> list[str]:
    """Hold a patient's epsilon: at one clinic it is the same, at several no less."""
    patients, delta = record["privacy"]["statement"]["patients"], record["spec"]["privacy"]["delta"] or 0.0
    most, alone = patients["max-records"], patients["max-clinics"] == 1
    faults = []
    if most != record["spec"]["data"].get("max-records-per-patient"):
        faults.append(f"{file}: privacy.statement.patients.max-records: is {most}, which is not in the settings")
    for a in views[0]:
        claimed = _number(patients["epsilon"][a])
        least = max(second_epsilon(of_patient(view[a], most), delta) for view in views)
        if not same(claimed, least) and (alone or not claimed > least):
            faults.append(
                f"{file}: privacy.statement.patients.epsilon.{a}: {claimed:.6g} is claimed, "
                f"at one clinic alone settings and counts give {least:.6g}"
            )
    return faults


def _tuning_faults(file: Path, record: Record, ledger: Ledger) -> list[str]:
    """Hold what a run costs with its trials against the ledgers of both."""
    kept, stated, spec = record["privacy"].get("tuning"), record["privacy"]["statement"]["tuning"], record["spec"]
    noised = spec["privacy"]["mechanism"] != "none"
    if (kept is None) != (stated is None) or (kept is None and spec["tuned"] and noised):
        return [f"{file}: privacy.tuning: does not match spec.tuned"]
    if kept is None:
        return []
    if stated != told_of(kept) or kept["trials"] != sum(each["times"] for each in kept["ledgers"]):
        return [f"{file}: privacy.statement.tuning: is not what privacy.tuning says"]
    faults, delta, unit = [], spec["privacy"]["delta"] or 0.0, record["plan"]["unit"]
    not_made, trials = tuning_of(kept)
    runs = [ledger, *not_made]
    clinics = range(len(record["plan"]["clinics"]))
    for i, row in enumerate(kept["price"]):
        a = row["adversary"]
        wholes = with_trials(runs, trials, a, clinics, unit)
        expected = {"composed": max((second_epsilon(whole, delta) for whole in wholes), default=0.0)}
        if row["drawn"] is not None:
            ledgers = [one for one, _ in trials]
            expected["drawn"] = max(
                second_drawn(
                    kept["trials"], delta, *([of.mechanisms(a, k, unit) for of in each] for each in (ledgers, runs))
                )
                for k in clinics
            )
        faults += [
            f"{file}: privacy.tuning.price.{i}.{key}: {row[key]} is claimed, "
            f"the ledgers of run and trials give {value:.6g}"
            for key, value in expected.items()
            if row[key] is not None and not same(_number(row[key]), value)
        ]
    return faults


def _shortened(faults: list[str]) -> list[str]:
    """Leave out most of what thousands of clinics have in common."""
    kinds: dict[str, int] = {}
    kept = []
    for fault in faults:
        kind = ": ".join(fault.split(": ")[:2]).rstrip("0123456789")
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= TOLD:
            kept.append(fault)
    return kept + [f"{kind}: {count - TOLD} more clinics disagree" for kind, count in kinds.items() if count > TOLD]
