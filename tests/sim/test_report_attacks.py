"""What the report makes of attacks: means by hand, the headline measure of each, and no chart without data."""

import math

import pandas as pd
import pytest
from altair import Root
from jsonschema import ValidationError
from report_studies import make_runs, make_study

from sim.privacy.ledger import COLUMN_OF
from sim.report.attacks import (
    WHO,
    attack_figures,
    attack_points,
    attack_tables,
    attack_words,
    audit_points,
    measure_text,
)
from sim.report.gallery import gallery
from sim.report.html import write_report
from sim.report.spoken import HEADLINE
from sim.results.attacks import COLUMNS
from sim.results.columns import AUDITED_COLUMN_OF


def found(run_id, attack, adversary, measure, value, **others):
    row = dict.fromkeys(COLUMNS, math.nan) | {"clinic": ""}
    return (
        row | {"run_id": run_id, "attack": attack, "adversary": adversary, "measure": measure, "value": value} | others
    )


def attacked():
    runs = make_runs(seeds=[0, 1], epsilons=[3.0, math.inf])
    rows = []
    for row in runs.itertuples():
        bare = math.isinf(row.epsilon_model_user)
        about = {"low": 0.5, "high": 0.7, "chance": 0.5}
        rows.append(found(row.run_id, "lira", "model-user", "auc", 0.6 + 0.1 * row.seed, **about))
        rows.append(found(row.run_id, "lira", "model-user", "fpr_0_01_tpr", 0.02 + 0.02 * row.seed, chance=0.01))
        rows.append(found(row.run_id, "lira", "model-user", "auc", 0.99, clinic="north"))
        if row.cut:
            rows.append(found(row.run_id, "decoder", "server", "r2", 0.9, chance=0.0))
        if not bare:
            rows.append(found(row.run_id, "audit", "model-user", "epsilon", 1.0 + row.seed, bound=3.0))
    return make_study(runs, attacks=pd.DataFrame(rows, columns=list(COLUMNS)))


def test_an_attack_is_drawn_by_its_headline_measure_as_a_mean_over_seeds_of_all_clinics():
    points = attack_points(attacked(), "within_clinic_auc")
    lira = points[points["attack"] == "LiRA"]
    assert set(lira["measure"]) == {"TPR at 1 % FPR"}
    assert lira["mean"].tolist() == pytest.approx([0.03] * len(lira)), "of .02 and .04"
    assert lira["n"].tolist() == [2] * len(lira)
    decoder = points[points["attack"] == "decoder"]
    assert set(decoder["adversary"]) == {"Server"}
    assert all("," in series for series in decoder["series"]), "where the model is cut alone"


@pytest.mark.usefixtures("no_vega", "no_pictures")
@pytest.mark.parametrize("column", ["value", "chance", "low", "high"])
def test_a_report_is_written_of_numbers_that_are_not_finite(tmp_path, column):
    study = attacked()
    study.attacks.loc[study.attacks["measure"] == "r2", column] = -math.inf
    assert "decoder: R²" in write_report(study, tmp_path).read_text(encoding="utf-8")


def test_each_adversary_has_a_figure_and_none_is_drawn_without_data():
    figures, tables = attack_figures(attacked(), "within_clinic_auc")
    assert [figure.name for figure in figures] == ["attacks-model-user", "attacks-server", "audit"]
    assert set(tables) == {"attacks-model-user", "attacks-server", "audit"}
    bare = make_study(make_runs(seeds=[0, 1], epsilons=[3.0, math.inf]))
    assert [figure.name for figure in attack_figures(bare, "within_clinic_auc")[0]] == []


def test_the_largest_audited_epsilon_over_seeds_stands_beside_the_claim():
    points = audit_points(attacked())
    assert set(points["claimed"]) == {3.0}
    assert set(points["measured"]) == {2.0}
    assert set(points["level"].astype(str)) == {"ε = 3"}


def test_tables_are_by_adversary_with_a_row_for_each_method_and_level():
    (user, of_user), (server, of_server) = attack_tables(attacked())
    assert (user, server) == ("Model user", "Server")
    assert of_user["LiRA: AUC"].unique().tolist() == [".650"]
    assert set(of_server["decoder: R²"]) == {".900"}


def test_charts_of_attacks_are_valid_and_have_lines_for_guessing_and_no_privacy():
    study = attacked()
    shown = gallery(study)
    figure = next(figure for figure in shown.figures if figure.name == "attacks-model-user")
    for spec in (*shown.page_specs(figure), shown.paper_spec(figure, "heart")):
        Root.validate(spec)
    [panel] = shown.page_specs(figure)
    marked = {each["data"]["values"][0]["name"]: each["data"]["values"][0]["at"] for each in panel["layer"][:2]}
    assert marked == {"guessing": pytest.approx(0.01), "no privacy": pytest.approx(0.03)}
    panel["mark"] = "blot"
    with pytest.raises(ValidationError):
        Root.validate(panel)


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("fpr_0_001_tpr", "TPR at 0.1 % FPR"),
        ("offline_fpr_0_01_tpr", "offline TPR at 1 % FPR"),
        ("label_auc", "label AUC"),
        ("r2", "R²"),
        ("mix_error", "mix error (smaller: more found)"),
    ],
)
def test_measures_in_words(measure, told):
    assert measure_text(measure) == told


def test_words_name_where_an_attack_finds_most_and_what_guessing_gives():
    study = attacked()
    place = (study.attacks["attack"] == "decoder").idxmax()
    run = study.attacks.loc[place, "run_id"]
    values = study.attacks["value"].mask(study.attacks["run_id"].eq(run) & study.attacks["attack"].eq("decoder"), 0.98)
    study = make_study(study.runs, attacks=study.attacks.assign(value=values))
    row = study.ok.set_index("run_id").loc[run]
    [said] = [each for each in attack_words(study, HEADLINE) if each.startswith("Server, decoder")]
    assert said.startswith(f"Server, decoder: R² .940 for {row['series']} at {row['level']}, the most of 4 settings; ")
    assert said.endswith("guessing gives .000.")
    [lira] = [each for each in attack_words(study, HEADLINE) if "LiRA" in each]
    assert "TPR at 1 % FPR .030 for" in lira
    assert lira.endswith("guessing gives .010.")


def test_the_line_of_used_up_claims_goes_from_nothing_to_the_largest_claim():
    study = attacked()
    shown = gallery(study)
    figure = next(figure for figure in shown.figures if figure.name == "audit")
    assert "taken as known" in figure.note, "what a bound assumes stands beside it"
    [panel] = shown.page_specs(figure)
    ends = [{"claimed": claim, "measured": claim} for claim in (0.0, 3.0)]
    assert panel["layer"][0]["data"]["values"] == ends
    Root.validate(panel)


def test_every_adversary_of_an_audit_has_a_name():
    assert set(AUDITED_COLUMN_OF) <= set(WHO) == set(COLUMN_OF)
