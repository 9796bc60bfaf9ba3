"""The documentation: its commands run, its pictures are current, and its pages ask nothing of the network."""

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import plan_of, run_spec

from sim.cli import app
from sim.scenario.lookup import mechanisms

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNABLE = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


def module_of(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# commands


def test_pages_hold_commands_and_all_of_them_exist():
    assert {page.name for page in RUNNABLE} >= {"README.md", "index.md", "tutorial.md", "extending.md", "faq.md"}
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
        assert set(re.findall(r"\bsuture +([a-z]+)\b", code)) <= known, page.name


@pytest.fixture
def folder(tmp_path):
    """Lay out what the pages begin with; the main job has fewer seeds and rounds, and the commands are as written."""
    (tmp_path / "patients.csv").write_bytes((DOCS / "tutorial" / "patients.csv").read_bytes())
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    text = (ROOT / "scenarios" / "heart.toml").read_text(encoding="utf-8")
    for long, short in (
        ("seeds = [0, 1, 2, 3, 4]", "seeds = [0, 1]"),
        ("rounds        = 30", "rounds        = 1"),
        ("[1, 3, 8, inf]", "[3, inf]"),
    ):
        assert text.count(long) == 1
        text = text.replace(long, short)
    (tmp_path / "scenarios" / "heart.toml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs_as_it_is_written(folder, page):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for command in re.sub(r"\\\n", " ", block).splitlines() if "EOF" not in block else [block]:
            runs = sorted(folder.glob("results/heart/*/run.json"))
            text = command.replace("/RUN", f"/{runs[0].parent.name}") if runs else command
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],  # noqa: S607
                cwd=folder,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                timeout=1800,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr


# the privacy guide's table

FROZEN = {"freeze": ["head"]}
FINITE = [  # mechanism, strategy, cut, other settings, the model's; against model user, peers and server
    (["dp-sgd"], "fedavg", None, {}, {}, (True, True, True)),
    (["dp-sgd"], "splitfed-v1", "vanilla", {}, {}, (True, True, False)),
    (["smashed-noise"], "splitfed-v1", "vanilla", {"labels": "public"}, FROZEN, (True, True, True)),
    (["smashed-noise"], "splitfed-v1", "vanilla", {}, FROZEN, (False, False, False)),
    (["smashed-noise"], "splitfed-v1", "vanilla", {"labels": "public"}, {}, (False, False, False)),
    (["smashed-noise"], "splitfed-v1", "u-shaped", {}, {"freeze": ["head", "tail"]}, (True, True, True)),
    (["smashed-noise", "label-rr"], "splitfed-v1", "vanilla", {"label-epsilon": 1.0}, FROZEN, (True, True, True)),
    (["laplace"], "splitfed-v1", "vanilla", {"labels": "public"}, FROZEN, (True, True, True)),
    (["smashed-noise"], "release-once", "vanilla", {"labels": "public"}, {}, (True, True, True)),
    (["smashed-noise"], "release-once", "vanilla", {}, {}, (False, False, False)),
    (["dp-sgd", "smashed-noise"], "splitfed-v1", "vanilla", {"labels": "public"}, {}, (True, True, True)),
    (["dp-sgd", "smashed-noise"], "splitfed-v1", "vanilla", {}, {}, (True, True, False)),
    (["dp-sgd", "smashed-noise"], "splitfed-v1", "u-shaped", {}, {}, (True, True, True)),
    (["clinic-level"], "fedavg", None, {}, {}, (True, True, False)),
    (["clinic-level"], "splitfed-v3", "vanilla", {}, {}, (False, True, False)),
]


@pytest.mark.parametrize(("mechanism", "strategy", "cut", "settings", "model", "finite"), FINITE)
def test_the_table_of_mechanisms_says_what_the_ledger_says(ragged, mechanism, strategy, cut, settings, model, finite):
    privacy = {"mechanism": mechanism, "noise-multiplier": 1.0, "delta": 1e-3} | settings
    if len(mechanism) == 2 and "dp-sgd" in mechanism:
        privacy["smashed-noise-multiplier"] = 20.0
    plan, _ = plan_of(run_spec(ragged, strategy, cut, privacy, model))
    columns = plan.columns()
    found = [math.isfinite(columns[f"epsilon_{who}"]) for who in ("model_user", "peer", "server")]
    assert tuple(found) == finite


def test_the_table_of_mechanisms_has_them_all():
    text = (DOCS / "privacy.md").read_text(encoding="utf-8")
    assert [name for name in mechanisms() if f"| `{name}` |" not in text] == []


# pictures and data


def test_pictures_of_the_exchanges_are_current():
    draw = module_of(DOCS / "draw_exchanges.py")
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "exchanges").glob("*.svg")}
    assert drawn == draw.pictures(), "run: python docs/draw_exchanges.py"
    shown = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    assert [name for name in drawn if f"(exchanges/{name})" not in shown] == []


def test_a_batch_of_u_shaped_split_learning_is_drawn_in_the_papers_order():
    draw = module_of(DOCS / "draw_exchanges.py")
    arrows = [(step.to, step.text) for step in draw.steps("split", "u-shaped") if step.to and "A" in step.clinics]
    ends = "head and tail, optimiser's state"
    assert arrows == [
        ("clinic", ends),
        ("server", "smashed data"),
        ("clinic", "body's outputs"),
        ("server", "gradient of the tail"),
        ("clinic", "gradient at the cut"),
        ("server", ends),
    ]


def test_patients_of_the_tutorial_are_those_of_its_script():
    made = module_of(DOCS / "tutorial" / "make_patients.py").patients()
    assert made == (DOCS / "tutorial" / "patients.csv").read_text(encoding="utf-8")


# the site


class Requests(HTMLParser):
    """Collects what a browser would fetch for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        places = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(places.get("src") or "")
        if tag == "link":
            self.found.append(places.get("href") or "")


@pytest.mark.long
def test_the_site_builds_strictly_and_asks_nothing_of_the_network(tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert requests.found
        assert [place for place in requests.found if re.match(r"(?:[a-z]+:)?//", place)] == [], page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
