"""Files that are no ordinary ones, no scenario or no data, or that unpack to more than memory holds."""

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import SCENARIO, write_scenario
from test_bad_input import refused, settings

STUDY = SCENARIO + '[[strategies]]\nname = "fedavg"\n'
KINDS = {
    "loop": lambda path: path.symlink_to(path),
    "broken link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "null device": lambda path: path.symlink_to("/dev/null"),
    "folder": lambda path: path.mkdir(),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
    "file as folder": lambda path: path.symlink_to("/etc/hostname/x"),
}
SAID = {
    "loop": "cannot be read (Too many levels of symbolic links); check the path",
    "broken link": "does not exist; check the path",
    "pipe": "is a pipe; give an ordinary file",
    "endless device": "is a device; give an ordinary file",
    "null device": "is a device; give an ordinary file",
    "folder": "is a directory; give an ordinary file",
    "socket": "is a socket; give an ordinary file",
    "file as folder": "cannot be read (Not a directory); check the path",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["scenario", "clinics.csv", "t.parquet", "t.npz", "head.safetensors", "head.npz"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_what_is_no_ordinary_file(suture, tmp_path, kind, role):
    study = write_scenario(tmp_path, STUDY)
    path = study if role == "scenario" else tmp_path / role
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    sets = {
        "t.parquet": ["data={source='parquet', path='t.parquet', label='label', clinic='clinic', scaling='none'}"],
        "t.npz": ["data={source='npz', path='t.npz', x='x', label='y', clinic='c'}"],
        "head.safetensors": ["model.public-head='head.safetensors'", "model.freeze=['head']"],
        "head.npz": ["model.public-head='pca:head.npz'", "model.components=2", "model.freeze=['head']"],
    }
    if role.startswith("head"):
        sets[role] += ["strategies=[{name='split'}]", "model.cut=1"]
    [line] = refused(suture, tmp_path, study, *settings(*sets.get(role, [])))
    assert line.startswith(f"{study}: ")
    folder = role == "scenario" and kind == "folder"
    assert line.endswith("is a folder; give a scenario file, NAME.toml" if folder else SAID[kind])


def nul(path):
    path.write_bytes(b'name = "x\0"\n')


def latin(path):
    path.write_bytes('name = "é"\n'.encode("latin-1"))


def large(path):
    with path.open("wb") as file:
        file.truncate(10**9)


def deep(path):
    path.write_text("a = " + "[" * 3000 + "]" * 3000, encoding="utf-8")


def deep_tables(path):
    path.write_text(STUDY + f"[{'.'.join('a' * 3000)}]\nb = 1\n", encoding="utf-8")


def digits(path):
    path.write_text("a = " + "9" * 5000, encoding="utf-8")


def cut(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nul, "Illegal character"),
        (latin, "is not UTF-8 text; save it as UTF-8"),
        (large, "has 1 GB, and at most 4 MB are read; give a smaller file"),
        (deep, "lists or tables stand more than 12 deep in each other; no key has so many"),
        (deep_tables, "holds lists or tables more than 12 deep; no key has so many"),
        (digits, "has a whole number of thousands of digits; give a smaller one"),
        (cut, "; write it as TOML"),
        (lambda path: path.write_bytes(b""), "is missing; add this key"),
    ],
)
def test_scenario_files_that_are_no_scenario(suture, tmp_path, change, said):
    study = write_scenario(tmp_path, STUDY)
    change(study)
    found = refused(suture, tmp_path, study)
    assert said in found[0]
    assert len(found) == 1 or "is missing" in said


def zeros(shape, dtype="<f8"):
    """Return an array's header as numpy writes it, without the values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(path, **members):
    """Write an archive; what is a number is so many bytes of zeros behind the header."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (header, bytes_of_zeros) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(header)
                for _ in range(bytes_of_zeros // 2**20):
                    file.write(bytes(2**20))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"x": (zeros((10**15, 4)), 0)}, 'has an array "x" that declares more values than the file holds'),
        ({"x": (zeros((2**70,)), 0)}, 'has an array "x" that declares more values than the file holds'),
        ({"x": (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000, 0)}, 'has a damaged array "x"'),
        ({"x": (b"\x93NUMPY\x09\x00\x10\x27" + b"(" * 10000, 0)}, 'has a damaged array "x"'),
        ({"x": (zeros((4, -1)), 0)}, 'has a damaged array "x"'),
    ],
)
def test_archives_that_declare_what_they_do_not_hold(suture, tmp_path, members, said):
    study = write_scenario(tmp_path, STUDY)
    npz(tmp_path / "t.npz", **members, y=(zeros((4,)) + bytes(32), 0), c=(zeros((4,)) + bytes(32), 0))
    data = "data={source='npz', path='t.npz', x='x', label='y', clinic='c'}"
    [line] = refused(suture, tmp_path, study, "--set", data)
    assert said in line


@pytest.fixture
def little_memory(monkeypatch):
    """A machine of 20 MB, so that what does not fit need not be large."""
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 20_000_000 // 4096}
    ask = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: pages.get(name) or ask(name))


def packed_text(path, pack):
    path.write_bytes(pack(b"clinic,label,x0,x1,x2,x3\n" + b"k0,a,1,1,1,1\n" * 500_000))


def zipped(text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", text)
    return file.getvalue()


def constant_column(path):
    pq.write_table(pa.table({"label": pa.array(np.zeros(2_000_000, "i1")), "x": np.zeros(2_000_000, "i1")}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv.gz", lambda path: packed_text(path, gzip.compress)),
        ("t.csv.bz2", lambda path: packed_text(path, bz2.compress)),
        ("t.csv.xz", lambda path: packed_text(path, lambda text: lzma.compress(text, preset=0))),
        ("t.csv.zip", lambda path: packed_text(path, zipped)),
        ("t.csv", lambda path: path.write_bytes(b"label\n" + b"1\n" * 3_000_000)),
        ("t.parquet", constant_column),
        ("t.npz", lambda path: npz(path, x=(zeros((2**20, 4), "|u1"), 2**22))),
    ],
)
def test_files_that_unpack_to_more_than_memory_holds_are_not_unpacked(suture, tmp_path, little_memory, name, write):
    study, path = write_scenario(tmp_path, STUDY), tmp_path / name
    write(path)
    source = "npz" if name == "t.npz" else "parquet" if name == "t.parquet" else "csv"
    roles = "x='x', label='y', split='iid', clinics=2" if source == "npz" else "label='label', split='iid', clinics=2"
    [line] = refused(suture, tmp_path, study, "--set", f"data={{source='{source}', path='{name}', {roles}}}")
    assert f"data.path: {path} takes " in line
    assert "MB of memory, and this machine has 20 MB" in line


def test_a_public_head_that_unpacks_to_more_than_memory_holds(suture, tmp_path, little_memory):
    study = write_scenario(tmp_path, STUDY)
    npz(tmp_path / "head.npz", x=(zeros((2**19, 4)), 2**24))
    sets = ["model.public-head='pca:head.npz'", "model.components=2", "model.freeze=['head']", "model.cut=1"]
    [line] = refused(suture, tmp_path, study, *settings(*sets, "strategies=[{name='split'}]"))
    assert "model.public-head: " in line
    assert "takes 67.1 MB of memory, and this machine has 20 MB" in line


def test_batches_that_fit_in_no_memory(suture, tmp_path, little_memory):
    study = write_scenario(tmp_path, STUDY)
    [line] = refused(suture, tmp_path, study, "--set", "train.batch-size=10000000")
    assert "train.batch-size: to draw a round's batches takes 1.28 GB of memory" in line
    [line] = refused(suture, tmp_path, study, "--set", "train.local-epochs=100000")
    assert "train.local-epochs: to draw a round's batches takes " in line


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("parquet", b"PAR1" + b"\xff" * 60 + struct.pack("<I", 60) + b"PAR1"),
        ("parquet", b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1"),
        ("parquet", b""),
        ("csv", b""),
        ("csv", b"\0" * 1000),
        ("csv", b'clinic,label,x0\n"' + b"a" * 100_000),
        ("csv", bytes(range(256)) * 10),
        ("npz", b"PK\x05\x06" + bytes(18)),
        ("npz", b"\x80\x04N."),
        ("npz", zeros((10**15,))),
    ],
)
def test_data_files_of_junk(suture, tmp_path, source, content):
    study = write_scenario(tmp_path, STUDY)
    (tmp_path / "t").write_bytes(content)
    roles = "x='x', label='y'" if source == "npz" else "label='label', scaling='none'"
    found = refused(suture, tmp_path, study, "--set", f"data={{source='{source}', path='t', clinic='c', {roles}}}")
    assert all(line.startswith(f"{study}: data") for line in found)
