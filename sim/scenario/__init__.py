"""The scenario file: settings by table, sweeps, overrides, and the runs that they make."""

from sim.scenario.file import Scenario, load_scenario, parse_scenario

__all__ = ["Scenario", "load_scenario", "parse_scenario"]
