"""A file imports from its own floor and those below, never upward."""

import ast

import pytest

from esc.paths import ROOT

FLOORS = ("esc", "data_builders", "training", "serving", "mining", "eval", "experiments")


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", FLOORS)
def test_a_package_imports_nothing_from_a_floor_above(package):
    modules = list((ROOT / package).rglob("*.py"))
    assert modules
    above = set(FLOORS[FLOORS.index(package) + 1 :])
    for module in modules:
        upward = set(imported_packages(module)) & above
        assert not upward, f"{module.relative_to(ROOT)} imports {upward}"
