"""Scores by group of patients, and the gap, by hand."""

from math import inf

import pandas as pd
import pytest
from altair import Root
from report_studies import make_runs, make_study

from sim.report.gallery import gallery
from sim.report.html import write_report
from sim.report.points import group_points
from sim.report.resources import gap_frame

pytestmark = pytest.mark.usefixtures("no_vega")


@pytest.fixture
def study():
    runs = make_runs(epsilons=[inf], methods=[("fedavg", ""), ("local", "")], seeds=[0, 1])
    runs = runs.drop(columns="privacy.epsilon")
    rows = []
    for row in runs.to_dict("records"):
        for level, score in (("female", 0.80), ("male", 0.90)):
            gain = 0.02 * row["seed"] - 0.05 * (row["strategy"] == "local") * (level == "female")
            rows.append((row["run_id"], "sex", level, 50, score + gain))
        rows.append((row["run_id"], "age", "65 and above", 20, float("nan")))
    columns = ["run_id", "group", "level", "records", "within_clinic_auc"]
    return make_study(runs, groups=pd.DataFrame(rows, columns=columns))


def test_points_are_means_over_seeds_and_groups_without_a_score_are_left_out(study):
    points = group_points(study.drawn, study.groups).set_index(["series", "patients"])["mean"]
    assert points.to_dict() == pytest.approx(
        {
            ("FedAvg", "sex: female"): 0.81, ("FedAvg", "sex: male"): 0.91,
            ("Local", "sex: female"): 0.76, ("Local", "sex: male"): 0.91,
        }
    )  # fmt: skip


def test_the_gap_names_the_group_that_is_served_worst(study):
    gaps = gap_frame(group_points(study.drawn, study.groups)).set_index("Method")
    assert gaps["sex"].to_dict() == {"FedAvg": ".100 (lowest: female, .810)", "Local": ".150 (lowest: female, .760)"}


def test_the_report_draws_and_tells_them(study, tmp_path):
    shown = gallery(study)
    [figure] = [one for one in shown.figures if one.name == "groups"]
    for spec in (*shown.page_specs(figure), shown.paper_spec(figure, "heart")):
        Root.validate(spec)
    assert ".150 (lowest: female, .760)" in write_report(study, tmp_path).read_text(encoding="utf-8")
