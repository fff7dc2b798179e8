"""Imports run downwards, as docs/architecture.md says: its sentence on the floors of the house is read here."""

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

import ase_klm

ROOT = Path(ase_klm.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
UPWARDS = {("data/configurations.py", "dynamics")}
"""Arrows that the page names, inside of functions."""
KNOW_ASE_CALCULATORS = {
    "ase_plugin.py",
    "calculators.py",
    "moments.py",
    "potentials/foreign.py",
    "relaxation/spin_lattice_filter.py",
}


def floors():
    """Rooms of each floor, from the ground up."""
    (sentence,) = re.findall(
        r"^Imports run downwards:(.*?)\. Tools", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [set(re.findall(r"`(\w+)(?:\.py)?`", floor)) for floor in sentence.split("←")]


@functools.cache
def imports(path):
    """Modules of this package and of ASE that a file imports, and whether when it is imported itself."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [(name, node in tree.body) for name in names if name.startswith(("ase_klm.", "ase."))]
    return found


@functools.cache
def files():
    """Python files of the package by their names from its root."""
    return {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def room(name):
    return name.split("/")[0].removesuffix(".py")


@pytest.fixture(scope="module")
def arrows():
    """(file, room that it imports from, whether at once), for all imports between rooms."""
    found = set()
    for name, path in files().items():
        for imported, at_once in imports(path):
            target = imported.split(".")[1]
            if imported.startswith("ase_klm.") and target not in (room(name), "__version__") and name != "__init__.py":
                found.add((name, target, at_once))
    return found


def test_every_room_stands_on_a_floor():
    known = set().union(*floors()) | {"testing", "ase_plugin", "__init__", "pretrained"}
    assert {room(name) for name in files()} <= known


def test_imports_run_downwards(arrows):
    level = {name: number for number, floor in enumerate(floors()) for name in floor}
    level |= {"testing": level["cli"], "ase_plugin": level["cli"]}
    upwards = {(name, target) for name, target, _ in arrows if level[target] > level[room(name)]}
    assert upwards == UPWARDS
    assert not {(name, target) for name, target, at_once in arrows if at_once} & UPWARDS


def test_rooms_of_one_floor_form_no_circle(arrows):
    below = {}
    for name, target, at_once in arrows:
        if at_once:
            below.setdefault(room(name), set()).add(target)
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError


def test_files_form_no_circle():
    below = {}
    for name, path in files().items():
        for imported, at_once in imports(path):
            parts = imported.split(".")[1:]
            for end in (parts[:-1], parts):
                target = "/".join(end) + ".py"
                if imported.startswith("ase_klm.") and at_once and target in files() and target != name:
                    below.setdefault(name, set()).add(target)
    graphlib.TopologicalSorter(below).prepare()


def test_nothing_imports_the_command_line(arrows):
    assert not {name for name, target, _ in arrows if target == "cli" and room(name) != "cli"}


def test_few_know_calculators_of_ase():
    knowing = {
        name
        for name, path in files().items()
        for imported, _ in imports(path)
        if imported.startswith("ase.calculators.") and room(name) not in ("data", "cli")
    }
    assert knowing <= KNOW_ASE_CALCULATORS
