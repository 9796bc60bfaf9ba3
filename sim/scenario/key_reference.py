"""The page of all keys of a scenario, and their JSON schema with meanings, made from the models that check them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, get_args

from sim.foundation.text import amount_text
from sim.scenario.data import DataSpec
from sim.scenario.file import Scenario

Schema = dict[str, Any]
_SOURCES: Final = {source.__name__: source.model_fields["source"].default for source in get_args(get_args(DataSpec)[0])}
_TABLES: Final = {
    "Model": "model",
    "Train": "train",
    "Tune": "tune",
    "Range": 'tune."KEY"',
    "Scoring": "evaluation",
    "GroupColumn": "evaluation.groups",
    "Server": "server",
    "ClinicGroup": "clinics",
    "Availability": "clinics.availability",
    "Straggler": "clinics.straggler",
    "Party": "parties",
    "Region": "regions",
    "Edge": "edges",
    "Privacy": "privacy",
    "Strategy": "strategies",
    "AttackTable": "attacks",
}
_LISTS: Final = ("attacks", "clinics", "edges", "parties", "regions", "strategies", "evaluation.groups")
_OPENING: Final = """# Scenario keys

Every key of a scenario file, made from the models that check it (`suture schema --markdown`); `suture schema` prints
the same for editors. [The reference](reference.md) explains what the keys are for. Quantities are text with a unit; a
key without a default and not required is off where it is left out.
"""


def described_schema() -> Schema:
    """Return the JSON schema of a scenario with the meaning of each key."""
    schema: Schema = Scenario.model_json_schema()
    for model, table in [("", ""), *dict.fromkeys(_SOURCES, "data").items(), *_TABLES.items()]:
        keys = (schema["$defs"][model] if model else schema)["properties"]
        for key, found in keys.items():
            name = "features-made" if (model, key) == ("Synthetic", "features") else key
            found["description"] = MEANINGS.get(table, {}).get(name, "")
    return schema


def markdown() -> str:
    """Return the page of all keys."""
    schema = described_schema()
    parts = [_OPENING, "## The file\n", _table(schema["properties"], schema["required"])]
    parts += ["## `[data]`\n", *_of_sources(schema["$defs"])]
    for model, table in _TABLES.items():
        own = schema["$defs"][model]
        heading = f"[[{table}]]" if table in _LISTS else f"[{table}]"
        parts += [f"## `{heading}`\n", _table(own["properties"], own.get("required", ()))]
    return "\n".join(parts)


def _of_sources(models: Mapping[str, Schema]) -> Iterator[str]:
    """Yield a table of the keys that the same sources have, for each set of sources."""
    groups: dict[tuple[str, ...], Schema] = {}
    seen: set[tuple[str, str]] = set()
    for model in _SOURCES:
        for key, found in models[model]["properties"].items():
            told = json.dumps(found, sort_keys=True)
            if (key, told) not in seen and key != "source":
                seen.add((key, told))
                alike = (m for m in _SOURCES if json.dumps(models[m]["properties"].get(key), sort_keys=True) == told)
                groups.setdefault(tuple(alike), {})[key] = found
    every = ", ".join(f'`"{source}"`' for source in _SOURCES.values())
    yield f"`source` is one of {every}; {MEANINGS['data']['source'][0].lower()}{MEANINGS['data']['source'][1:]}\n"
    for having, own in sorted(groups.items(), key=lambda group: -len(group[0])):
        sources = " and ".join(filter(None, [", ".join(_SOURCES[m] for m in having[:-1]), _SOURCES[having[-1]]]))
        yield f"### Of {'every source' if len(having) == len(_SOURCES) else sources}\n"
        yield _table(own, models[having[0]].get("required", ()))


def _table(keys: Schema, required: Collection[str]) -> str:
    lines = ["| key | what it takes | default | meaning |", "|---|---|---|---|"]
    for key, found in keys.items():
        default = "required" if key in required else _default(found)
        lines.append(f"| `{key}` | {_kind(found)} | {default} | {found['description']} |")
    return "\n".join([*lines, ""])


def _default(found: Schema) -> str:
    value = found.get("default")
    if value is None or isinstance(value, dict) or value == [] or (isinstance(value, list) and "$ref" in str(found)):
        return ""
    if isinstance(value, float) and "FLOP/s" in str(found.get("examples")):
        return f'`"{amount_text(value, "FLOP/s")}"`'
    return f"`{json.dumps(value)}`"


def _kind(found: Schema) -> str:
    """Say what a key takes."""
    if "const" in found:
        return f"`{json.dumps(found['const'])}`"
    if "enum" in found:
        return _or([f"`{json.dumps(value)}`" for value in found["enum"]])
    if several := found.get("anyOf", found.get("oneOf")):
        kinds = [_kind(each) for each in several if each.get("type") != "null"]
        return _or(list(dict.fromkeys(kinds)))
    if "$ref" in found or "oneOf" in found:
        return "a table"
    match found.get("type"):
        case "boolean":
            return "`true` or `false`"
        case "integer" | "number":
            return _number(found)
        case "string":
            return "a path" if found.get("format") == "path" else _text(found.get("examples", []))
        case "array":
            if "prefixItems" in found:
                return f"`[{', '.join('number' for _ in found['prefixItems'])}]`"
            kind = _kind(found["items"])
            return "tables" if kind == "a table" else f"a list of {_many(kind)}"
        case "object" if "additionalProperties" in found and isinstance(found["additionalProperties"], dict):
            return f"a table, each key with {_kind(found['additionalProperties'])}"
    return "a table"


def _text(examples: list[str]) -> str:
    return f"text such as {_or([f'`{json.dumps(example)}`' for example in examples])}" if examples else "text"


def _number(found: Schema) -> str:
    kind = "whole number" if found["type"] == "integer" else "number"
    bounds = {
        "from": found.get("minimum"),
        "above": found.get("exclusiveMinimum"),
        "to": found.get("maximum"),
        "below": found.get("exclusiveMaximum"),
    }
    told = [f"{word} {value:,.10g}" for word, value in bounds.items() if value is not None and abs(value) < 2**60]
    return " ".join([kind, ", ".join(told)]).strip()


def _many(kind: str) -> str:
    return {"text": "texts"}.get(kind, kind.replace("whole number", "whole numbers").replace("number ", "numbers "))


def _or(kinds: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))


MEANINGS: Final[dict[str, dict[str, str]]] = {
    "": {
        "name": "The study's name, and its folder's.",
        "seeds": "One run for each: it decides splits, made-up records, initial values, batches, order and failures.",
        "data": "The records: where they come from, how they stand at clinics, how they are prepared.",
        "model": "The network, and where it is cut.",
        "train": "How every strategy trains.",
        "attacks": "What is tried against every run after it has ended, beside the attacks of every run.",
        "tune": "Keys that every method tunes on validation records, dotted, each with values or a range to try.",
        "evaluation": "How held-out records are scored.",
        "server": "The server's computer and link.",
        "clinics": "The clinics' links and computers, a group a table.",
        "parties": "Who holds which columns of the same patients, under a vertical layout.",
        "regions": "Links and computers of some regions' parties that differ from elsewhere.",
        "edges": "Servers between clinics and cloud, such as a hospital group's, and whose they are.",
        "privacy": "What protects patients, and how strongly.",
        "strategies": "The methods to compare, a table each.",
        "sweep": "Keys of other tables, dotted, with the values that each takes in turn: a run for each combination.",
    },
    "data": {
        "source": "What kind of records: it decides which other keys there are.",
        "regions": "Under a vertical layout, whether the clinics are regions with patients and parties of their own.",
        "layout": "Whether clinics hold all columns of their own patients, or parties some columns of all patients.",
        "test-share": "Share of each clinic's records that is held out, and by patient where patients are known.",
        "validation-share": "Share of each clinic's other records that chooses, and neither trains nor is held out.",
        "test": "What is held out: records of every clinic, or all records of some clinics, which then do not train.",
        "folds": "Into how many groups clinics are parted, each held out once; without it each clinic by itself.",
        "test-sites": "The clinics that are held out (external validation), in place of folds.",
        "stratified": "Whether held-out records are drawn within each class; labels then decide about other records.",
        "one-class": "Whether clinics whose records are all of one class take part or are refused.",
        "sites": "The clinics of the source whose records are used; without it all.",
        "exclude-sites": "The clinics of the source whose records are not used.",
        "min-records": "Clinics with fewer records are left out.",
        "split": "How records stand at clinics: where they came from, or dealt out to made-up clinics by a law.",
        "alpha": "Concentration of the Dirichlet distribution of `quantity` and `dirichlet`: small is unequal.",
        "classes-per-clinic": "How many classes each clinic has under `pathological`.",
        "shift": "Size of each clinic's change of the features under `feature-shift`, in standard deviations.",
        "clinics": "How many clinics are made.",
        "scaling": "What scales features: public ranges, or statistics of the records (no epsilon is then finite).",
        "imaging": "Whether fluoroscopy (ca), thallium scan (thal) and slope are features too, and filled in.",
        "held-out": "Whether the seed draws held-out records, or they are those of FLamby.",
        "path": "The file, relative to the scenario's folder; of `loader` the name or import path of a function.",
        "options": "Arguments of the loader.",
        "clinic": "Column or array that says at which clinic a record is.",
        "patient": "Column or array that says whose a record is: no patient is then on both sides of the split.",
        "outcome": "What is predicted: a class, a grade, an amount, or the time until an event; without it classes.",
        "grades": "Of an ordinal outcome: values of the label from the lowest grade to the highest, public.",
        "label": "Column or array to predict.",
        "label-range": "Public [lowest, highest] of an amount: what lies beyond moves to its end.",
        "time": "Column of times until the event, or until the end of follow-up.",
        "event": "Column that says whether the event was seen (1) or follow-up ended before it (0).",
        "horizon": "Up to what time to predict, in the unit of `time`; what comes behind it is not scored.",
        "intervals": "How many equal intervals there are up to the horizon (20), or where all but the last end.",
        "positive": "Values of the label that are cases, or of `event` that are events; all others are none.",
        "max-records-per-patient": "Only the first so many records of each patient are used.",
        "features": "Columns to predict from; without it all but label, clinic, patient and those excluded.",
        "exclude": "Columns not to predict from.",
        "categorical": "Columns of words, or of codes: each becomes a column of 0 and 1 for each level.",
        "levels": "By categorical column, its levels; without it those found, which is a statistic of the records.",
        "missing": "By column, or for all: a public constant, `unknown` for a level of its own, or `drop` the column.",
        "missing-indicator": "Columns filled in that get a column beside them which says where; `true`: all.",
        "ranges": 'By column, its public [lowest, highest]; `"*"` is for all others. Values beyond move to the end.',
        "x": "Array of records; without it, MedMNIST's names.",
        "range": "Public [lowest, highest] of the values; 0 to 255 for unsigned bytes.",
        "records": "How many records are made, of all clinics.",
        "features-made": "How many features are made.",
        "classes": "How many classes there are.",
        "prevalence": "Share of all classes but the first; without it classes are equally frequent.",
        "size-spread": "Standard deviation of the logarithm of the clinics' sizes.",
        "feature-shift": "Standard deviation, between clinics, of a feature's mean.",
        "intercept-shift": "Standard deviation, between clinics, of a class's log-odds.",
        "signal": "Standard deviation of the log-odds among a clinic's patients: how much there is to learn.",
    },
    "model": {
        "name": "The network.",
        "factory": 'Import path of a function of your own, `"package.module:function"`, for `name = "factory"`.',
        "hidden": "Widths of the hidden layers of `mlp`; the first is the hidden layer of `cnn`.",
        "channels": "Widths of the convolutional layers, where they shall not be the model's own.",
        "cut": "Block with which the server's part begins; cut twice, also that with which the part behind it begins.",
        "head": "Outputs of a model of two classes: one log-odds, or one a class.",
        "public-head": 'Where a frozen head comes from: `"random"`, `"pca:FILE.npz"` or `"FILE.safetensors"`.',
        "components": "Principal components of a `pca` head.",
        "batch-norm": "What becomes of running statistics: averaged, or each clinic's own.",
        "cut-dropout": "Share of each row at the first cut that is set to 0 in training.",
        "freeze": "The parts of clinic and edge server that do not train.",
    },
    "train": {
        "rounds": "Rounds of training.",
        "local-epochs": "Passes over a clinic's records in a round.",
        "batch-size": "Records in a batch; under DP-SGD the expected number.",
        "optimizer": "The optimiser, at clinics and server.",
        "learning-rate": "Its rate.",
        "momentum": "Momentum of `momentum`, and first moment's decay of `adam`.",
        "weight-decay": "Times each parameter, added to its gradient behind clipping and noise.",
        "schedule": "How the learning rate changes over the rounds: not, down as half a cosine, or up at first.",
        "participation": "Share of the clinics that a round asks, drawn anew.",
        "over-select": "How many times as many clinics are asked; the first to finish count.",
        "deadline": "Longest time of a round: nobody is waited for after it.",
        "loss": "Of amounts: squared (the mean is predicted), Huber's, or the check function of a quantile.",
        "huber-delta": "Up to what difference Huber's loss is squared, in the amount's unit; linear beyond.",
        "quantile": "Which quantile is predicted, such as 0.5 for the median.",
        "class-weights": "Factor on the loss of each class's records, a public constant.",
        "smashed-dtype": "What un-noised rows at a cut are rounded to when they cross.",
        "smashed-top-k": "Share of a row's values at a cut that cross, the largest; the gradient comes back for these.",
        "update-dtype": "What the numbers of clinics' updates of averaged parts are rounded to when they cross.",
        "update-top-k": "Share of an update's numbers that is sent, the largest; the rest waits for the next round.",
        "nopeek": "Times the distance correlation of records and smashed data, added to the head's loss.",
        "autocast": "What training computes large convolutions in; parameters, and what crosses, stay of 32 bits.",
        "eval-every": "After how many rounds the model is evaluated; after the last one always.",
    },
    "tune": {
        "validation-share": "Share of each clinic's training records that trials are scored on, and not trained on.",
        "refit": "Whether the chosen setting then trains on both.",
    },
    'tune."KEY"': {
        "low": "Least value; in place of a list of values, some are drawn, the same for every method.",
        "high": "Largest value.",
        "log": "Whether they are drawn evenly in the logarithm.",
        "trials": "How many are drawn; together with those of other keys.",
    },
    "evaluation": {
        "specificity": "The specificity at which sensitivity is taken.",
        "threshold": "The probability from which the net benefit counts a record as treated.",
        "margin": "Difference of the score within clinics within which two methods count as equal.",
        "reference": "Whether the strategy prevalence, the line of reference, is added to the study.",
        "groups": "Columns of the source by which patients are scored apart.",
    },
    "evaluation.groups": {
        "column": "Its name; a column alone may be written as text.",
        "bands": "Ascending edges between groups, where the column holds numbers.",
    },
    "server": {
        "compute": "Sustained rate of one worker.",
        "workers": "How many batches it trains on at once.",
        "uplink": "Rate from the server, shared by all clinics; without it never the bottleneck.",
        "downlink": "Rate to the server, likewise.",
    },
    "clinics": {
        "profile": "Link and computer by name, or names with shares that add up to 1.",
        "sites": "The clinics of the group.",
        "count": "The next so many clinics that no group names; without `sites` and `count`, all the rest.",
        "spread": "Standard deviation of the logarithm of the clinics' rates.",
        "uplink": "Rate from the clinic.",
        "downlink": "Rate to the clinic.",
        "latency": "Time of a message one way, besides its bytes.",
        "compute": "Sustained rate in training, or a class of computers.",
        "memory": "What its computer has.",
        "idle-power": "Power of its computer while it waits or sends.",
        "busy-power": "Power of its computer while it trains.",
        "availability": "Share of the rounds in which a clinic is there; a table: also for how long it stays away.",
        "drop-out": "Chance to be lost in a round, after any of its batches.",
        "label-noise": "Share of each clinic's training labels that are wrong, at random; held-out ones never are.",
        "missing-columns": "Columns or channels that these clinics lack: 0 in all their records, after scaling.",
        "hostile": "What these clinics send in place of their updates, labels or rows; without it they are honest.",
        "hostile-strength": "How strong hostile updates or rows are, 10 times if not given; updates at 0 are none.",
        "feature-shift": "Size of each clinic's own change of the features, in standard deviations.",
        "straggler": "How often a clinic is slow for a round, and how slow.",
    },
    "clinics.availability": {
        "share": "Share of the rounds in which a clinic is there.",
        "mean-outage": "Mean number of rounds for which it stays away; without it each round is drawn by itself.",
    },
    "clinics.straggler": {
        "chance": "Chance to be slow in a round.",
        "slowdown": "How many times slower computer and link then are.",
    },
    "privacy": {
        "mechanism": "What adds noise (`suture check` says where), or a list of those that act at different places.",
        "noise-multiplier": "Standard deviation of the noise over the clip (Laplace: scale over the L1 norm).",
        "epsilon": "Target, in place of the noise, against the adversary whom the mechanism is for; `inf`: none.",
        "clip": "Largest norm of what is noised: a record's gradient, a clinic's update, or a row.",
        "delta": "Probability with which the guarantee may fail; below 1 over the smallest clinic's records.",
        "smashed-noise-multiplier": "Noise of rows at the cut, beside that of gradients.",
        "epsilon-server": "Target against the server, beside one against the model user.",
        "smashed-clip": "Clip of rows at the cut, beside that of gradients.",
        "tail-clip": "Clip of the rows of gradients that a tail sends.",
        "label-epsilon": "Epsilon with which each label is randomised before it leaves.",
        "rows-noised-at": "Where rows get their noise: at the clinic, or at its edge server on the way to the cloud.",
        "labels": "Whether labels are a patient's secret, or public and outside the guarantee.",
        "clipping": "Whether each part of a cut network is clipped by itself, or all by their common norm.",
        "stop-at-epsilon": "The run ends before it spends more.",
        "adaptive-quantile": "The clip of updates follows this quantile of their norms.",
        "adaptive-rate": "How fast it follows.",
        "adaptive-count-noise": "Standard deviation of the noise on how many updates are clipped.",
        "trust": "What the server is taken to be: trusted; honest but curious; or active, so that it may lie.",
        "secure-aggregation": "Whether the server sees nothing but the sum of what clinics train.",
        "tolerated-drop-outs": "How many clinics of a round may be away or lost and the sum be opened still.",
        "colluding-clinics": "How many clinics may collude, with each other or with the server: two more adversaries.",
    },
    "attacks": {
        "name": "One of Suture's, or an Attack of yours by import path.",
        "options": "The attack's own keys.",
    },
    "strategies": {
        "name": "One of Suture's, a Method of yours by import path, or a Flower strategy by the path of its class.",
        "label": "What tables and figures call it.",
        "cut": "Where the network is cut: at one place; also before a tail at the clinic, so that labels stay "
        "(u-shaped); or for a middle at an edge server (multi-hop); or several in turn.",
        "order": "In which order a sequential method serves its clinics.",
        "alternate": "Whether it changes clinics after all their batches, or after each.",
        "proximal-mu": "Pull of FedProx towards the round's first model.",
        "options": "Arguments of a strategy of Flower's, or a method's own keys.",
        "set": "Keys of other tables that are otherwise for this strategy, such as `set.train.learning-rate = 0.01`.",
    },
}
_OF_A_GROUP: Final = (
    *("sites", "count", "spread"),
    *("label-noise", "missing-columns", "feature-shift", "hostile", "hostile-strength"),
)
MEANINGS["parties"] = {
    "name": "What the party is called.",
    "columns": "Its columns; a category's column stands for all its levels.",
    "label": "Whether it holds the label; one party does.",
    "share": "Share of the patients whom it knows; those whom all know are found by private set intersection.",
    "regions": "The regions that have the party, where there are regions; all without it.",
    **{key: meaning for key, meaning in MEANINGS["clinics"].items() if key not in _OF_A_GROUP},
    "profile": "Link and computer by name.",
    "availability": "Share of the rounds in which the party is there; without it, zeros stand for its rows.",
    "drop-out": "Chance to be lost in a round; a vertical layout takes 0 so far.",
}
MEANINGS["regions"] = {
    "sites": "The regions that it is about.",
    "parties": "Those of their parties that it is about; all without it.",
    "profile": "Link and computer by name.",
    **{key: MEANINGS["clinics"][key] for key in ("uplink", "downlink", "latency", "compute", "memory")},
    **{key: MEANINGS["clinics"][key] for key in ("idle-power", "busy-power")},
}
MEANINGS["edges"] = {
    "name": "What the edge server is called.",
    "clinics": "Its clinics; every clinic is at one edge server.",
    "workers": "How many batches it trains on at once.",
    "profile": "Link to the cloud and computer by name.",
    "uplink": "Rate to the cloud, shared by its clinics.",
    "downlink": "Rate from the cloud, likewise.",
    **{key: MEANINGS["clinics"][key] for key in ("latency", "compute", "memory", "idle-power", "busy-power")},
}
"""By table, as in a scenario, and by key; top-level keys under the empty name."""
