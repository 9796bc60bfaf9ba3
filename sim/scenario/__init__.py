"""The scenario file: settings by table, sweeps, overrides, and the runs that they make."""

from sim.foundation.problems import ScenarioError
from sim.scenario.base import Scalar
from sim.scenario.data import Csv, DataFile, DataSpec, HeartDisease, Loader, Npz, Parquet, Synthetic, TableFile
from sim.scenario.file import Scenario, load_scenario, name_of_a_folder, overridden, parse_scenario, picked, validated
from sim.scenario.model import Model
from sim.scenario.privacy import Privacy
from sim.scenario.study import AttackTable, ClinicGroup, Cut, GroupColumn, Scoring, Server, Strategy, Train
from sim.scenario.tune import Range, Tune

__all__ = [
    "AttackTable",
    "ClinicGroup",
    "Csv",
    "Cut",
    "DataFile",
    "DataSpec",
    "GroupColumn",
    "HeartDisease",
    "Loader",
    "Model",
    "Npz",
    "Parquet",
    "Privacy",
    "Range",
    "Scalar",
    "Scenario",
    "ScenarioError",
    "Scoring",
    "Server",
    "Strategy",
    "Synthetic",
    "TableFile",
    "Train",
    "Tune",
    "load_scenario",
    "name_of_a_folder",
    "overridden",
    "parse_scenario",
    "picked",
    "validated",
]
