"""What a run writes of its records: with other records, only what is listed changes."""

import json
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pandas as pd
import pytest
from edges import EDGES, spec_of
from support import DP_SGD, NO_PRIVACY, plan_of, run_spec, write_csv

from sim.privacy.uncovered import not_covered
from sim.study.runner import execute


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, (*path, str(i)))
    else:
        yield path, value


def other_records(csv, path):
    """The same clinics and sizes with other features, and the classes of all records turned over at one clinic."""
    header, *lines = csv.read_text(encoding="utf-8").splitlines()
    turned = {"class0": "class1", "class1": "class0"}
    rows = []
    for line in lines:
        clinic, label, *x = line.split(",")
        rows.append(",".join([clinic, turned[label] if clinic == "k1" else label, *(str(-2 * float(v)) for v in x)]))
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    ("method", "privacy", "share"),
    [(("fedavg", None), DP_SGD, 0.0), (("splitfed-v1", "vanilla"), DP_SGD, 0.2), (("fedavg", None), NO_PRIVACY, 0.0)],
)
def test_only_what_is_listed_changes_with_the_records(tmp_path, method, privacy, share) -> None:
    """Both runs have the same number of records everywhere; their parameters are what epsilon is about."""
    csv = write_csv(tmp_path / "one.csv")
    folders, spec = [], run_spec(csv, *method, privacy)
    for path in (csv, other_records(csv, tmp_path / "other.csv")):
        spec = run_spec(path, *method, privacy)
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"validation_share": share})})
        assert execute(plan_of(spec)[0], tmp_path / path.stem, {})["status"] == "ok"
        folders.append(tmp_path / path.stem / spec.run_id)
    records = [dict(leaves(json.loads((folder / "run.json").read_text(encoding="utf-8")))) for folder in folders]
    assert records[0].keys() == records[1].keys()
    changed = {path[-1] for path in records[0] if records[0][path] != records[1][path]}
    changed -= {"head"}  # of the audit log, which names the run
    for table in ("rounds", "clinics", "predictions", "split"):
        one, other = (pd.read_parquet(folder / f"{table}.parquet") for folder in folders)
        assert list(one) == list(other)
        changed |= {name for name in one if not one[name].equals(other[name])}
    assert {"auc", "loss", "membership_auc"} <= changed
    not_covered = json.loads((folders[0] / "run.json").read_text(encoding="utf-8"))["privacy"]["statement"][
        "not-covered"
    ]
    patterns = [pattern for row in not_covered for pattern in row["columns"]]

    def is_listed(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    assert {name for name in changed if not is_listed(name) and name != "path"} == set()
    assert ("class class0" in pd.read_parquet(folders[0] / "clinics.parquet")) == (privacy == NO_PRIVACY)
    logs = [
        [json.loads(line) for line in (folder.parent / "logs" / f"{folder.name}.log").read_text().splitlines()]
        for folder in folders
    ]
    for one, other in zip(*logs, strict=True):
        assert {key for key in one if one[key] != other[key] and not is_listed(key)} <= {"time"}
    listed = json.loads((folders[0] / "run.json").read_text(encoding="utf-8"))["privacy"]["non-private-releases"]
    shown = (folders[0] / "privacy.md").read_text(encoding="utf-8")
    assert listed == [row["what"] for row in not_covered]
    assert all(row["what"] in shown and row["of"] in shown for row in not_covered)
    assert math.isfinite(records[0]["row", "auc"])  # type: ignore[arg-type]


@pytest.mark.parametrize("edges", [None, EDGES], ids=["direct", "edge servers"])
def test_all_that_follows_from_the_sizes_of_drawn_batches_is_listed(tmp_path, edges) -> None:
    """Other records have a run draw other batches, on which its plan's columns depend and no value of theirs."""
    csv = write_csv(tmp_path / "one.csv")
    rows, spec = [], None
    for path in (csv, other_records(csv, tmp_path / "other.csv")):
        cut = "vanilla" if edges is None else "multi-hop"
        model = {"cut": 1} if edges is None else {}
        spec = spec_of(path, cut=cut, edges=edges, model=model, privacy=DP_SGD)
        rows.append(plan_of(spec)[0].columns())
    patterns = [pattern for row in not_covered(spec) for pattern in row["columns"]]
    changed = {name for name in rows[0] if rows[0][name] != rows[1][name]}
    assert {"bytes_up", "peak_edge_bytes" if edges else "peak_clinic_bytes"} <= changed
    assert [name for name in changed if not any(fnmatchcase(name, pattern) for pattern in patterns)] == []
