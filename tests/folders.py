"""A small study whose folder is damaged or feared, and how each command is asked to read it."""

MARK = "PATIENT-7731"
SCENARIO = """
name = "small"
seeds = [4]
[data]
source = "csv"
path = "own.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1", "x2", "x3"]
scaling = "none"
[model]
name = "mlp"
hidden = [6, 5]
[evaluation]
reference = false
[train]
rounds = 1
batch-size = 8
learning-rate = 0.1
[privacy]
mechanism = "dp-sgd"
delta = 1e-3
[[strategies]]
name = "fedavg"
[sweep]
"privacy.epsilon" = [2.0, inf]
"""


def arguments(command, scenario, study, one):
    return {
        "report": ("report", study),
        "compare": ("compare", study),
        "target": ("compare", study, "--target", "auc>=0.1"),
        "status": ("status", study),
        "rebuild": ("status", study, "--rebuild"),
        "advise": ("advise", scenario, "--out", study.parent),
        "export": ("export", study, "--mlflow", study.parent / "mlruns"),
        "epsilon": ("epsilon", one),
        "verify": ("verify", one),
        "replan": ("replan", one),
        "rerun": ("rerun", one),
    }[command]
