import ast

import pytest

from esc.paths import ROOT

SIBLINGS = ("data_builders", "training", "serving", "mining", "eval", "experiments")
ALLOWED = {"esc": {"esc"}} | {name: {"esc", name} for name in SIBLINGS}


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_itself_and_esc_only(package):
    modules = list((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        foreign = set(imported_packages(module)) & (ALLOWED.keys() - ALLOWED[package])
        assert not foreign, f"{module.relative_to(ROOT)} imports {foreign}"
