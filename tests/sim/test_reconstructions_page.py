"""The page of reconstructions: pictures that hold the pixels they are made of, and names that are escaped."""

import base64
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from report_studies import make_runs, make_study

from sim.foundation.problems import ScenarioError
from sim.report.reconstructions import pictures, png, write_reconstructions
from sim.results.attacks import EXHIBITS, note_attack, read_exhibit


def pixels_of(content):
    """Read a PNG by the format's own description: chunks with their sums, lines without a filter."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        data = content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size]) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        place += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    samples = {0: 1, 2: 3}[colour]
    assert depth == 8
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * samples)
    assert not lines[:, 0].any()
    return np.moveaxis(lines[:, 1:].reshape(height, width, samples), -1, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_holds_its_pixels(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    assert np.array_equal(pixels_of(png(pixels)), pixels)


def test_a_reconstruction_is_drawn_on_the_originals_scale():
    original = np.array([[[0.0, 2.0], [1.0, 0.0]]], np.float32)
    drawn = [
        pixels_of(base64.b64decode(re.search('base64,([^"]*)', str(each))[1]))
        for each in pictures(original, np.full_like(original, 4.0))
    ]
    assert drawn[0].tolist() == [[[0, 255], [128, 0]]]
    assert (drawn[1] == 255).all(), "beyond the scale"


def test_the_page_is_written_where_pictures_are_kept_and_escapes_names(tmp_path):
    runs = make_runs(seeds=[0], epsilons=[3.0])
    study = make_study(runs)
    assert write_reconstructions(study, tmp_path) == ""
    x = np.random.default_rng(0).random((3, 1, 4, 4)).astype(np.float32)
    row = {"status": "ok", "error": "", "wall_seconds": 1.0, "findings": []}
    for number, (attack, arrays) in enumerate((("<b>own", x), ("table", x.reshape(3, -1)), ("signal", x[..., 0]))):
        note_attack(
            tmp_path,
            row | {"attack_id": f"id{number}", "run_id": "run0", "attack": attack, "exhibit": (arrays, 1 - arrays)},
        )
    assert write_reconstructions(study, tmp_path) == "reconstructions.html"
    page = (tmp_path / "reconstructions.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;own" in page
    assert "<b>own" not in page
    assert page.count("<img") == 6, "three pairs; a table's rows are no pictures"
    assert page.count("<polyline") == 6


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2",
        "(" * 9000,
        "{1: 2, 'a': 3}",
        "[]",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }",
    ],
)
def test_a_header_that_numpy_chokes_on_is_told_in_one_line(tmp_path, header):
    line = header.encode() + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(16)
    (tmp_path / EXHIBITS).mkdir()
    with zipfile.ZipFile(tmp_path / EXHIBITS / "id.npz", "w") as archive:
        for name in ("originals.npy", "rebuilt.npy"):
            archive.writestr(name, content)
    with pytest.raises(ScenarioError, match="no archive of plain numbers"):
        read_exhibit(tmp_path, "id")
