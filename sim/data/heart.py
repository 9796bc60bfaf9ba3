"""The bundled heart-disease records of four real centres, prepared as FLamby does (see ``heart_disease.md``).

Sources: Janosi, Steinbrunn, Pfisterer, Detrano, "Heart Disease", UCI Machine Learning Repository, 1988,
doi 10.24432/C52P4X; Ogier du Terrail et al., "FLamby", NeurIPS 2022 (Fed-Heart-Disease).
"""

import csv
import hashlib
import json
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Table
from sim.data.split import at_sites, numbered
from sim.foundation.problems import ScenarioError
from sim.scenario.data import HeartDisease

CENTRES: Final = ("cleveland", "hungarian", "switzerland", "va")
CLASSES: Final = ("no disease", "disease")
SEVERITIES: Final = ("no disease", *(f"severity {grade}" for grade in range(1, 5)))
"""Values of ``num``."""
"""Angiographic diagnosis: column ``num`` 0, or 1 to 4 (a vessel narrowed by more than half)."""

FEATURES: Final = (
    *("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"),
    *("cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2"),
)
IMAGING: Final = ("slope_2", "slope_3", "ca", "thal_6", "thal_7")
"""Further features where ``imaging`` is asked for: slope of the ST segment under exercise (up, flat, down), vessels
seen by fluoroscopy, and thallium scan (normal, fixed or reversible defect). They are missing for most patients outside
Cleveland; a missing one counts as the level without finding: upsloping, no vessel, normal."""
RANGES: Final = MappingProxyType(
    {
        "age": (20.0, 90.0),  # years; adults sent to angiography
        "trestbps": (80.0, 200.0),  # mmHg, systolic at rest; from hypotension to hypertensive crisis
        "chol": (100.0, 400.0),  # mg/dl, serum cholesterol; beyond 400 only in familial disorders
        "thalach": (60.0, 210.0),  # beats/min, highest reached; 220 minus age is the rule for healthy people
        "oldpeak": (0.0, 5.0),  # mm, ST depression under exercise; 1 mm is a finding
        "ca": (0.0, 3.0),  # major vessels that fluoroscopy colours, of three
    }
)
"""Fixed clinical ranges, from general knowledge and not from these records; public scaling maps them to -1 to 1.

Values beyond a range are moved to its end. The other columns are 0 or 1 and stay so.
"""

CHOL_POPULATION_MEAN: Final = 213.0
"""mg/dl, stands for the missing ``chol`` (written 0) under public scaling.

The middle of the mean of US men (211) and women (215) aged 20 to 74 in 1976-1980: National Center for Health
Statistics, "Trends in serum cholesterol levels among US adults", JAMA 257:937, 1987.
"""

_FILE: Final = Path(__file__).with_name("heart_disease_4centres.json")
_FLAMBY_SPLIT: Final = Path(__file__).with_name("heart_disease_flamby_split.json")
_SHA256: Final = "3f93b3af961956154d958f674ce97c8feecc5eb3043306d93ab7841ab94c6b72"
_NUMERIC: Final = FEATURES[:8]
_ONE_HOT: Final = {"cp": (2, 3, 4), "restecg": (1, 2)}
_SCANS: Final = {"slope": (2, 3), "thal": (6, 7)}


def lines() -> list[str]:
    """Return the lines of the CSV file, which lie in a JSON list: Flower's bundles of an app take no CSV."""
    try:
        found = json.loads(_FILE.read_bytes())
    except (OSError, ValueError):
        return []
    return [str(line) for line in found] if isinstance(found, list) else []


@cache
def _parsed() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return features, severities, centres and places of the rows with no missing value but of slope, ca and thal."""
    found = lines()
    if hashlib.sha256("".join(f"{line}\n" for line in found).encode()).hexdigest() != _SHA256:
        raise ScenarioError(f"scenario: data.source: {_FILE.name} is absent or altered; install Suture again")
    rows = []
    for place, row in enumerate(csv.DictReader(found)):
        if not all(row[column] for column in (*_NUMERIC, *_ONE_HOT)):
            continue
        numbers = [float(row[column]) for column in _NUMERIC]
        dummies = [float(float(row[column]) == level) for column, levels in _ONE_HOT.items() for level in levels]
        scans = {c: [float(row[c] == str(level)) for level in levels] for c, levels in _SCANS.items()}
        imaging = [*scans["slope"], float(row["ca"] or 0), *scans["thal"]]
        rows.append((numbers + dummies + imaging, int(row["num"]), CENTRES.index(row["centre"]), place))
    x, *others = zip(*rows, strict=True)
    y, centre, places = (np.array(column, dtype=np.int64) for column in others)
    return np.array(x), y, centre, places


def _flamby_held_out(centre: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return FLamby's one fixed split: 254 of the 740 records held out, whatever the seed.

    Scikit-learn's ``train_test_split`` at each centre, 34 % with ``random_state=43``, stratified except in switzerland,
    as FLamby's ``fed_heart_disease`` draws it; kept as positions so that no other generator is needed.
    """
    positions = json.loads(_FLAMBY_SPLIT.read_text(encoding="utf-8"))
    held_out = np.zeros(len(centre), dtype=np.bool_)
    for code, name in enumerate(CENTRES):
        held_out[np.flatnonzero(centre == code)[positions[name]]] = True
    return held_out


def read(spec: HeartDisease) -> Table:
    """Read the bundled records of the centres in use, in the order of the file.

    Raises ``ScenarioError`` if the file is absent or altered, or a centre does not exist.
    """
    x, y, centre, place = _parsed()
    used, problems = at_sites(spec, CENTRES, centre, public=True)
    if problems:
        raise ScenarioError(problems)
    held_out = _flamby_held_out(centre)[used] if spec.held_out == "flamby" else None
    features = (*FEATURES, *IMAGING) if spec.imaging else FEATURES
    x, y = x[used, : len(features)], y[used]
    classes = SEVERITIES if spec.outcome == "ordinal" else CLASSES
    y = y if spec.outcome == "ordinal" else (y > 0).astype(np.int64)
    names, clinic = numbered(CENTRES, centre[used])
    statistics = {}
    if spec.scaling == "public":
        chol = FEATURES.index("chol")
        x[x[:, chol] == 0, chol] = CHOL_POPULATION_MEAN
        statistics["constant for missing chol"] = "public"
    if spec.imaging:
        statistics |= {f"constant for missing {column}": "public" for column in ("slope", "ca", "thal")}
    return Table(
        names=names,
        features=features,
        classes=classes,
        outcome=spec.outcome_of_a_record,
        x=x,
        y=y,
        clinic=clinic,
        row=place[used],
        scaling=spec.scaling,
        ranges=RANGES,
        statistics=statistics,
        held_out=held_out,
    )
