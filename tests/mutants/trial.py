"""Put a mutant into a copy of the tree and run the tests that must fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("sim", "strategies", "clients", "tests", "benchmarks", "scenarios", "pyproject.toml", "README.md")
SECONDS = 300
FAILED, PASSED = 1, 0


class MutantError(ValueError):
    """A mutant that cannot be put in."""


@dataclass(frozen=True)
class Mutant:
    """One broken guarantee.

    Attributes
    ----------
    name : str
    file : str
    old, new : str
        A text that stands in the file once, and what takes its place.
    tests : tuple of str
        Node ids; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def mutated(self, text: str) -> str:
        """Return the file's text with the mutant in it.

        Raises
        ------
        MutantError
            If the text to replace does not stand there just once.
        """
        if (found := text.count(self.old)) != 1:
            raise MutantError(f"{self.name}: {self.file} holds the text to replace {found} times, not once")
        return text.replace(self.old, self.new)


@contextmanager
def copied_tree(folder: Path) -> Iterator[Path]:
    """Copy what the tests need, and remove it afterwards."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            tree.mkdir(exist_ok=True)
            shutil.copy(source, tree / name)
    try:
        yield tree
    finally:
        shutil.rmtree(tree)


def run_tests(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests in a tree; return pytest's exit code, or a negative number if they take too long, and what it wrote."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {SECONDS} s"
    return done.returncode, done.stdout[-2000:]


def tried(tree: Path, mutant: Mutant) -> str:
    """Say what became of a mutant: ``killed``, ``survived`` or ``error`` with what went wrong."""
    path = tree / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.mutated(before), encoding="utf-8")
    try:
        code, output = run_tests(tree, mutant.tests)
    finally:
        path.write_text(before, encoding="utf-8")
    return {FAILED: "killed", PASSED: "survived"}.get(code, f"error: pytest ended with {code}: {output[-500:]}")
