"""Code of others: whatever of it changes makes another run, and so noise of its own."""

import sys
from pathlib import Path

import pytest

from sim.scenario.code import code_digest

FILES = {
    "alone.py": "from torch import nn\n",
    "beside.py": "import helper\n",
    "helper.py": "from parts import layers\n",
    "parts/layers.py": "WIDTH = 3\n",
    "loose/net.py": "def build():\n    from . import sizes\n",
    "loose/sizes.py": "WIDTH = 3\n",
    "package/__init__.py": "from .net import build\n",
    "package/net.py": "from package.inner.deep import WIDTH\n",
    "package/inner/__init__.py": "",
    "package/inner/deep.py": "from ..net import build\n",
    "other.py": "",
    "sim/net.py": "",
    "broken.py": "def (",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "made_of"),
    [
        ("alone", {"alone.py"}),
        ("beside", {"beside.py", "helper.py", "parts/layers.py"}),
        ("loose.net", {"loose/net.py", "loose/sizes.py"}),
        ("package", {name for name in FILES if name.startswith("package/")}),
        ("package.net", {name for name in FILES if name.startswith("package/")}),
        ("broken", {"broken.py"}),
    ],
)
def test_every_file_that_a_module_is_made_of_changes_its_digest_and_no_other(folder, module, made_of):
    before = code_digest(module)
    assert before is not None
    changing = set()
    for name, text in FILES.items():
        (folder / name).write_text(f"{text}\n# changed\n", encoding="utf-8")
        changing |= {name} if code_digest(module) != before else set()
        (folder / name).write_text(text, encoding="utf-8")
    assert changing == made_of
    assert module not in sys.modules


def test_what_is_installed_beside_a_module_is_left_out(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages"
    write(installed)
    monkeypatch.syspath_prepend(str(installed))
    before = code_digest("beside"), code_digest("package.net")
    (installed / "helper.py").write_text("", encoding="utf-8")
    assert code_digest("beside") == before[0]
    (installed / "package" / "inner" / "deep.py").write_text("", encoding="utf-8")
    assert code_digest("package.net") != before[1]


def test_what_is_no_module_has_none(folder):
    assert code_digest("nowhere.at.all") is None
    assert code_digest("alone.inside") is None
