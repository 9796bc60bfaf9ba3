"""The page of all keys of a scenario, and their JSON schema with meanings, made from the models that check them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, get_args

from sim.foundation.text import amount_text
from sim.scenario.data import DataSpec
from sim.scenario.file import Scenario
from sim.scenario.meanings import MEANINGS

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
            found["description"] = _meaning(table, key, model)
    return schema


def _meaning(table: str, key: str, model: str) -> str:
    name = "features-made" if (model, key) == ("Synthetic", "features") else key
    return MEANINGS.get(table, {}).get(name, "")


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
