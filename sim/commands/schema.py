"""``suture schema``."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON schema of a scenario, for editors that complete and check TOML."""
    from sim.scenario import Scenario

    print(json.dumps(Scenario.model_json_schema(), indent=1))
