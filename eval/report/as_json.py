"""The report as JSON: every field of every object, and of each number also how it is shown."""

from dataclasses import fields, is_dataclass
from typing import Any

from eval.report.page import Cell, Example, Figure, Report, Table

_SHOWN: dict[type, tuple[str, ...]] = {
    Cell: ("shown", "interval", "mark"),
    Table: ("smoke", "status"),
    Example: ("smoke",),
    Report: ("smoke", "banner"),
}
"""Properties that are written with the fields."""


def value(report: Report) -> Any:
    """The report as what ``json`` writes."""
    return _value(report)


def _value(one: Any) -> Any:
    if is_dataclass(one) and not isinstance(one, type):
        told = {field.name: _value(getattr(one, field.name)) for field in fields(one)}
        for name in _SHOWN.get(type(one), ()):
            told[name] = _value(getattr(one, name))
        if isinstance(one, Figure):
            told["smoke"] = one.table.smoke
        return told
    if isinstance(one, dict):
        return {str(key): _value(item) for key, item in one.items()}
    if isinstance(one, list | tuple):
        return [_value(item) for item in one]
    return one
