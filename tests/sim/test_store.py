"""The results folder: runs are there complete or not at all, and the table keeps its contract."""

import json
import math
import os
import resource
import signal
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from sim import run
from sim.foundation.problems import FolderError
from sim.results.plain import from_plain, to_plain
from sim.results.store import COLUMNS, as_table, read_rows, write_run, write_table
from sim.scenario import parse_scenario
from sim.scenario.spec import RESULTS_VERSION, RunSpec, expand

# The contract's columns in order, with their types; counts are doubles too, as a table has one type for all runs.
CONTRACT = {
    **dict.fromkeys(("run_id", "study", "strategy", "method", "cut"), pa.string()),
    "seed": pa.int64(),
    "status": pa.string(),
    "rounds": pa.int64(),
    **dict.fromkeys(("auc", "balanced_accuracy", "accuracy", "loss", "worst_clinic_auc"), pa.float64()),
    **dict.fromkeys(("sim_seconds", "bytes_up", "bytes_down", "clinic_flops"), pa.float64()),
    **dict.fromkeys(("server_flops", "peak_clinic_bytes"), pa.float64()),
    **dict.fromkeys(("unit", "mechanism", "adjacency"), pa.string()),
    "delta": pa.float64(),
    **dict.fromkeys(("epsilon_model_user", "epsilon_peer", "epsilon_server"), pa.float64()),
    "wall_seconds": pa.float64(),
}
TEXTS = {"held_out", "worst_clinic", "error"}  # of the columns beyond the contract
SCORES = ["within_clinic_auc", "auc", "balanced_accuracy", "accuracy", "loss", "worst_clinic_auc"]


def scenario(csv, **tables):
    """Return a scenario of two strategies, two targets and two seeds on the ragged clinics."""
    mapping = {
        "name": "kept",
        "seeds": [0, 1],
        "data": {
            "source": "csv",
            "path": str(csv),
            "label": "label",
            "clinic": "clinic",
            "features": ["x0", "x1", "x2", "x3"],
            "scaling": "none",
        },
        "model": {"name": "mlp", "hidden": [6, 5], "cut": [1, -1]},
        "train": {"rounds": 2, "batch-size": 8, "learning-rate": 0.1},
        "privacy": {"mechanism": "dp-sgd", "delta": 1e-3},
        "evaluation": {"reference": False},
        "strategies": [{"name": "fedavg"}, {"name": "local"}, {"name": "splitfed-v1", "cut": "u-shaped"}],
        "sweep": {"privacy.epsilon": [3, math.inf], "train.learning-rate": [0.1]},
    }
    return parse_scenario(mapping | tables, csv.parent)


@pytest.fixture(scope="module")
def study(ragged, tmp_path_factory):
    """Run the scenario once; return it, its table and its folder."""
    out = tmp_path_factory.mktemp("store")
    wanted = scenario(ragged)
    return wanted, run(wanted, out).runs, out / "kept"


def row_of(run_id="r1", **changes):
    return {"run_id": run_id, "study": "s", "seed": 3, "status": "ok", "rounds": 2} | changes


# Plain values


def test_infinities_come_back_and_json_is_strict():
    row = {"a": math.inf, "b": -math.inf, "c": 1.5, "d": 2, "e": "text", "f": None, "g": True}
    text = json.dumps(to_plain(row), allow_nan=False)
    assert json.loads(text) == row | {"a": "inf", "b": "-inf"}
    back = from_plain(json.loads(text))
    assert back == row
    assert {key: type(value) for key, value in back.items()} == {key: type(value) for key, value in row.items()}


def test_not_a_number_becomes_null_and_a_missing_value_in_the_table():
    row = row_of(auc=math.nan, loss=0.5)
    back = from_plain(json.loads(json.dumps(to_plain(row), allow_nan=False)))
    assert back["auc"] is None
    table = as_table([back, row_of("r2", auc=0.75)])
    assert math.isnan(table["auc"][0])
    assert table["auc"][1] == 0.75
    assert table["auc"].dtype == "float64"


def test_plain_goes_into_every_depth():
    value = {"list": [math.inf, (math.nan, {"x": -math.inf})], 5: "key"}
    assert to_plain(value) == {"list": ["inf", [None, {"x": "-inf"}]], "5": "key"}


def test_infinite_epsilon_survives_the_folder_and_the_table(tmp_path):
    write_run(
        tmp_path,
        {"results-version": RESULTS_VERSION, "row": row_of(epsilon_server=math.inf, epsilon_peer=0.0, auc=math.nan)},
        {},
        {},
    )
    assert read_rows(tmp_path) == [row_of(epsilon_server=math.inf, epsilon_peer=0.0, auc=None)]
    write_table(tmp_path)
    read = pd.read_parquet(tmp_path / "runs.parquet")
    assert read["epsilon_server"].tolist() == [math.inf]
    assert read["epsilon_peer"].tolist() == [0.0]
    assert read["auc"].isna().tolist() == [True]


# All or nothing


@contextmanager
def files_of_at_most(size):
    """Let every write beyond some bytes of a file fail, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(
    ("where", "expected"),
    [("table", FolderError), ("weights", AttributeError), ("record", TypeError), ("move", FolderError)],
)
def test_an_exception_in_the_middle_leaves_nothing(tmp_path, where, expected):
    record = {"results-version": RESULTS_VERSION, "row": row_of()}
    tables, parameters = {"rounds": {"a": [1]}}, {"model": {"w": torch.ones(2)}}
    if where == "table":
        tables = {"rounds": {"a": np.random.default_rng(0).normal(size=20_000)}}
    elif where == "weights":
        parameters = {"model": {"w": "no tensor"}}
    elif where == "record":
        record |= {"plan": object()}
    else:
        (tmp_path / "r1").touch()
    with files_of_at_most(50_000), pytest.raises(expected):
        write_run(tmp_path, record, tables, parameters)
    assert read_rows(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == (["r1"] if where == "move" else [])


def test_a_failed_write_keeps_what_was_there(tmp_path):
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of(auc=0.5)}, {}, {})
    with pytest.raises(TypeError):
        write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of(auc=0.6), "plan": object()}, {}, {})
    assert [row["auc"] for row in read_rows(tmp_path)] == [0.5]


def test_a_run_written_again_is_replaced_whole(tmp_path):
    first = write_run(
        tmp_path,
        {"results-version": RESULTS_VERSION, "row": row_of(status="failed")},
        {"rounds": {"a": [1]}},
        {},
    )
    again = write_run(
        tmp_path, {"results-version": RESULTS_VERSION, "row": row_of(auc=0.6)}, {}, {"model": {"w": torch.ones(1)}}
    )
    assert first == again == tmp_path / "r1"
    assert sorted(path.name for path in again.iterdir()) == ["model.safetensors", "run.json"]
    assert [row["status"] for row in read_rows(tmp_path)] == ["ok"]


def test_a_leftover_of_a_dead_process_is_ignored(tmp_path):
    leftover = tmp_path / ".r1.4194305"
    leftover.mkdir()
    (leftover / "run.json").write_text(
        json.dumps({"results-version": RESULTS_VERSION, "row": row_of()}), encoding="utf-8"
    )
    assert read_rows(tmp_path) == []
    assert write_table(tmp_path).empty
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of("r2")}, {}, {})
    assert [row["run_id"] for row in read_rows(tmp_path)] == ["r2"]


def test_an_own_leftover_is_replaced(tmp_path):
    leftover = tmp_path / f".r1.{os.getpid()}"
    leftover.mkdir()
    (leftover / "stale.parquet").write_bytes(b"half")
    folder = write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of()}, {}, {})
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert not leftover.exists()


def test_folders_without_a_record_are_no_runs(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "r9").mkdir()
    (tmp_path / "r9" / "rounds.parquet").write_bytes(b"half")
    assert read_rows(tmp_path) == []
    assert read_rows(tmp_path, ["r9", "r8"]) == []
    assert read_rows(tmp_path / "nowhere") == []


def test_rows_come_in_the_order_asked_for(tmp_path):
    for run_id in ("b", "a", "c"):
        write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of(run_id)}, {}, {})
    assert [row["run_id"] for row in read_rows(tmp_path)] == ["a", "b", "c"]
    assert [row["run_id"] for row in read_rows(tmp_path, ["c", "x", "b"])] == ["c", "b"]


def test_who_reads_the_old_table_reads_on(tmp_path):
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of()}, {}, {})
    write_table(tmp_path)
    with (tmp_path / "runs.parquet").open("rb") as reader:
        before = (tmp_path / "runs.parquet").read_bytes()
        write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of("r2")}, {}, {})
        write_table(tmp_path)
        assert reader.read() == before
    assert pd.read_parquet(tmp_path / "runs.parquet")["run_id"].tolist() == ["r1", "r2"]


def test_the_table_is_replaced_in_one_step(tmp_path):
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of()}, {}, {})
    write_table(tmp_path)
    before = (tmp_path / "runs.parquet").read_bytes()
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row_of("r2")}, {}, {})
    with files_of_at_most(1000), pytest.raises(FolderError, match="File too large"):
        write_table(tmp_path)
    assert (tmp_path / "runs.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r1", "r2", "runs.parquet"]


# The contract


def test_columns_and_types_are_the_contracts(study):
    _, _, folder = study
    schema = pq.read_schema(folder / "runs.parquet")
    names = [name for name in schema.names if name in CONTRACT]
    assert names == list(CONTRACT)
    swept = ["privacy.epsilon", "train.learning-rate"]
    end = COLUMNS.index("wall_seconds")
    measured = ["membership_auc", "smashed_reconstruction_r2"]
    assert schema.names == [*COLUMNS[:end], *measured, *COLUMNS[end:], *swept]
    assert {"worst_clinic", "majority_accuracy", "error"} <= set(COLUMNS)
    for name in schema.names:
        expected = CONTRACT.get(name, pa.string() if name in TEXTS else pa.float64())
        found = schema.field(name).type
        assert found == expected or (expected == pa.string() and found == pa.large_string()), name


def test_an_empty_or_failed_study_has_the_same_columns_and_types(study):
    _, table, _ = study
    for rows in ([], [row_of(status="failed", error="Boom")]):
        assert as_table(rows).dtypes.to_dict() == table[list(COLUMNS)].dtypes.to_dict()


def test_one_row_a_run_and_one_column_a_swept_key(study):
    wanted, returned, folder = study
    table = pd.read_parquet(folder / "runs.parquet")
    pd.testing.assert_frame_equal(table, returned)
    specs = expand(wanted)
    assert table["run_id"].tolist() == [spec.run_id for spec in specs]
    assert table["run_id"].is_unique
    assert len(table) == 3 * 2 * 2
    for row, spec in zip(table.to_dict("records"), specs, strict=True):
        assert (row["study"], row["strategy"], row["cut"]) == ("kept", spec.strategy.name, spec.strategy.cut or "")
        assert (row["seed"], row["rounds"], row["status"], row["error"]) == (spec.seed, 2, "ok", "")
        assert {key: row[key] for key in spec.swept} == spec.swept
    assert table["privacy.epsilon"].tolist() == [3, 3, math.inf, math.inf] * 3
    assert table["train.learning-rate"].tolist() == [0.1] * 12
    assert table["mechanism"].tolist() == ["dp-sgd", "dp-sgd", "none", "none"] * 3
    assert table[SCORES].notna().all(axis=None)
    assert (table["wall_seconds"] > 0).all()


def test_every_run_has_its_folder_with_all_its_files(study):
    _, table, folder = study
    names = {path.name for path in folder.iterdir()}
    files = {"runs.parquet", "study.json", "study-log.jsonl", "first-rounds.json", "logs"}
    assert names == {*table["run_id"], *files}
    for run_id in table["run_id"]:
        tables = {f"{stem}.parquet" for stem in ("rounds", "clinics", "predictions", "split")}
        assert {"run.json", "model.safetensors", *tables} <= {path.name for path in (folder / run_id).iterdir()}


def test_weights_have_the_networks_names_and_shapes(study):
    _, table, folder = study
    shapes = {
        "hidden1.0.weight": (6, 4),
        "hidden1.0.bias": (6,),
        "hidden2.0.weight": (5, 6),
        "hidden2.0.bias": (5,),
        "output.weight": (1, 5),
        "output.bias": (1,),
    }
    for run_id, strategy in zip(table["run_id"], table["strategy"], strict=True):
        weights = load_file(folder / run_id / "model.safetensors")
        models = 4 if strategy == "local" else 1  # every clinic has its own, or all have one
        assert {name: tuple(value.shape) for name, value in weights.items()} == {
            name: (models, *shape) for name, shape in shapes.items()
        }
        assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in weights.values())
        assert any(bool(value.abs().max() > 0) for value in weights.values())


def test_rounds_and_clinics_agree_with_the_row(study):
    _, table, folder = study
    for row in table.to_dict("records"):
        rounds = pd.read_parquet(folder / row["run_id"] / "rounds.parquet")
        assert rounds["round"].tolist() == [0, 1, 2]
        assert rounds["sim_seconds"].tolist()[0] == 0
        assert rounds["sim_seconds"].iloc[-1] == pytest.approx(row["sim_seconds"])
        assert rounds["auc"].iloc[-1] == row["auc"]
        clinics = pd.read_parquet(folder / row["run_id"] / "clinics.parquet")
        assert clinics["name"].tolist() == ["k0", "k1", "k2", "k3"]
        assert (clinics["records"] + clinics["test_records"]).tolist() == [7, 23, 40, 64]
        assert clinics["bytes_up"].sum() == row["bytes_up"]
        assert clinics["bytes_down"].sum() == row["bytes_down"]
        assert clinics["auc"].min() == row["worst_clinic_auc"]
        assert clinics["name"][clinics["auc"].argmin()] == row["worst_clinic"]
        for column in ("epsilon_model_user", "epsilon_peer", "epsilon_server"):
            assert clinics[column].max() == row[column]


def test_the_recorded_spec_is_the_spec_again(study):
    wanted, _, folder = study
    for spec in expand(wanted):
        text = (folder / spec.run_id / "run.json").read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity
        again = RunSpec.model_validate_json(json.dumps(record["spec"]))
        assert again == spec
        assert again.run_id == spec.run_id
        assert from_plain(record["row"])["run_id"] == spec.run_id
        assert record["plan"]["run_id"] == spec.run_id
        assert len(record["plan"]["clinics"]) == 4


def test_every_kind_of_setting_reads_back(ragged):
    swept = {"privacy.noise-multiplier": [0.0], "privacy.clip": [math.inf], "train.optimizer": ["adam"]}
    group = {"uplink": "3.123456789 Mbit/s", "downlink": "70 MB/s", "latency": "13.7 ms", "compute": "0.31 TFLOP/s"}
    wanted = scenario(
        ragged,
        clinics=[{"profile": "rural-dsl", "sites": ["k1"], "latency": "70 ms"}, group],
        server={"compute": "3.3 TFLOP/s", "workers": 2},
        strategies=[{"name": "flwr.serverapp.strategy.FedAdam", "options": {"eta": 0.1}}],
        sweep=swept,
    )
    for spec in expand(wanted):
        assert spec.clinics[1].uplink == 3.123456789e6
        again = RunSpec.model_validate_json(json.dumps(to_plain(spec.model_dump(mode="json")), allow_nan=False))
        assert again == spec
        assert again.run_id == spec.run_id


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    row = row_of(auc=float(np.float64(0.5)), loss=np.float64("nan"), epsilon_peer=np.float64("inf"))
    write_run(tmp_path, {"results-version": RESULTS_VERSION, "row": row}, {}, {})
    assert read_rows(tmp_path) == [row_of(auc=0.5, loss=None, epsilon_peer=math.inf)]
