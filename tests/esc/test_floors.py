"""A file imports from its own floor and those below, never upward."""

import ast

import pytest

from esc.paths import ROOT

FLOORS = ("esc", "data_builders", "training", "serving", "mining", "eval", "experiments")


@pytest.mark.parametrize("package", FLOORS)
def test_a_package_imports_nothing_from_a_floor_above(package):
    above = set(FLOORS[FLOORS.index(package) + 1 :])
    for module in (ROOT / package).rglob("*.py"):
        nodes = list(ast.walk(ast.parse(module.read_text())))
        names = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not above & {name.partition(".")[0] for name in names}, module
