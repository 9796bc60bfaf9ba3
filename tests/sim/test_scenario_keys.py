"""The page of all keys, and their meanings in the schema."""

import json
import re
from pathlib import Path

import pytest

from sim.scenario.data import Csv, HeartDisease, Loader, Npz, Parquet, Synthetic
from sim.scenario.edges import Edge
from sim.scenario.file import Scenario
from sim.scenario.key_reference import MEANINGS, described_schema, markdown
from sim.scenario.model import Model
from sim.scenario.parties import Party, Region
from sim.scenario.privacy import Privacy
from sim.scenario.study import (
    AttackTable,
    Availability,
    ClinicGroup,
    GroupColumn,
    Scoring,
    Server,
    Straggler,
    Strategy,
    Train,
)
from sim.scenario.tune import Range, Tune

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scenario-keys.md"
MODELS = {
    "": (Scenario,),
    "data": (HeartDisease, Csv, Parquet, Loader, Npz, Synthetic),
    "model": (Model,),
    "train": (Train,),
    "tune": (Tune,),
    "attacks": (AttackTable,),
    'tune."KEY"': (Range,),
    "evaluation": (Scoring,),
    "evaluation.groups": (GroupColumn,),
    "server": (Server,),
    "clinics": (ClinicGroup,),
    "clinics.availability": (Availability,),
    "clinics.straggler": (Straggler,),
    "parties": (Party,),
    "regions": (Region,),
    "edges": (Edge,),
    "privacy": (Privacy,),
    "strategies": (Strategy,),
}


def test_the_committed_page_is_current(suture):
    code, out, err = suture("schema", "--markdown")
    assert (code, err) == (0, "")
    assert PAGE.read_text(encoding="utf-8") == out, "run: suture schema --markdown > docs/scenario-keys.md"


@pytest.mark.parametrize("table", MODELS)
def test_every_key_has_a_meaning_and_every_meaning_a_key(table):
    keys = {field.alias for model in MODELS[table] for field in model.model_fields.values()}
    assert keys == MEANINGS[table].keys() - {"features-made"}


def test_every_table_of_a_scenario_is_on_the_page():
    named = set(described_schema()["$defs"])
    assert named == {model.__name__ for models in MODELS.values() for model in models} - {"Scenario"}


@pytest.mark.parametrize("table", [table for table in MODELS if table])
def test_the_page_has_each_key_with_its_default(table):
    sections = re.split(r"^## ", markdown(), flags=re.MULTILINE)
    [section] = [text for text in sections if re.match(rf"`\[{{1,2}}{re.escape(table)}\]", text)]
    rows = [re.fullmatch(r"\| `([^`]+)` \| (.+) \| (.*) \| (.+) \|", line) for line in section.splitlines()]
    told = {}
    for row in filter(None, rows):
        told.setdefault(row[1], set()).add(row[3])
    for model in MODELS[table]:
        for field in model.model_fields.values():
            if field.alias == "source":
                continue
            default = field.get_default(call_default_factory=True)
            if field.is_required():
                assert "required" in told[field.alias]
            elif isinstance(default, str | bool | int | float) and field.alias != "compute":
                assert f"`{json.dumps(default)}`" in told[field.alias], field.alias
            else:
                assert field.alias in told


def test_meanings_are_one_line_that_a_table_can_hold():
    for table in MEANINGS.values():
        for meaning in table.values():
            assert meaning.endswith(".")
            assert meaning[0].isupper() or meaning[0] == "`"
            assert not {"|", "\n"} & set(meaning)
