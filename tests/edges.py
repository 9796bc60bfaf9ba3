"""Two hospital groups on the small table of the tests: their edge servers, and runs through them."""

from __future__ import annotations

from pathlib import Path

from support import NO_PRIVACY

from sim.data.federation import load_federation
from sim.flower.simulation import Simulation
from sim.plan.plan import make_plan
from sim.scenario import parse_scenario
from sim.scenario.spec import RunSpec, expand

EDGES = [
    {"name": "north", "clinics": ["k0", "k2"], "profile": "hospital"},
    {"name": "south", "clinics": ["k1", "k3"], "profile": "large-practice"},
]
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 2.0, "clip": 1.5, "delta": 1e-3, "labels": "public"}
"""Noise on rows alone, whose labels are nobody's secret."""
BOTH = {
    **ROWS,
    "mechanism": ["dp-sgd", "smashed-noise"],
    "noise-multiplier": 0.9,
    "clip": 0.5,
    "smashed-noise-multiplier": 2.0,
    "smashed-clip": 1.5,
}


def scenario_of(csv: Path, strategy="splitfed-v1", cut="multi-hop", edges=EDGES, **tables) -> dict:
    """Return a scenario's tables; others may be given, ``train`` and ``model`` keys among them."""
    options = tables.pop("options", None)
    model, train = ({**known, **tables.pop(name, {})} for name, known in _TABLES.items())
    return {
        "name": "edges",
        "seeds": [5],
        "data": {
            "source": "csv",
            "path": str(csv),
            "label": "label",
            "clinic": "clinic",
            "scaling": "none",
        },
        "model": model,
        "train": train,
        "privacy": NO_PRIVACY,
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy, "cut": cut, **({"options": options} if options else {})}],
        **({"edges": edges} if edges else {}),
        **tables,
    }


_TABLES = {
    "model": {"name": "mlp", "hidden": [6, 5, 4], "cut": [1, 3]},
    "train": {"rounds": 3, "batch-size": 8, "learning-rate": 0.1},
}


def spec_of(csv: Path, strategy="splitfed-v1", cut="multi-hop", edges=EDGES, **tables) -> RunSpec:
    """Return the one run of a scenario."""
    [spec] = expand(parse_scenario(scenario_of(csv, strategy, cut, edges, **tables), csv.parent))
    return spec


def direct(csv: Path, strategy="splitfed-v1", cut="vanilla", at=1, **tables) -> RunSpec:
    """Return the run of the same method without edge servers, cut at one block, or U-shaped."""
    model = tables.pop("model", {})
    model = {**model, "cut": model.get("cut", [1, -1]) if cut == "u-shaped" else at}
    return spec_of(csv, strategy, cut, None, model=model, **tables)


def models_of(spec: RunSpec, **how):
    """Return the model after each round, as the simulator sees it, and the simulation."""
    federation = load_federation(spec.data, spec.seed, spec.parties)
    plan = make_plan(spec, federation.facts)
    simulation, models = Simulation(plan.job, federation.train, **how), {}
    simulation.run(lambda server_round, model: models.update({server_round: model}))
    return models, simulation
