"""How many turns a measurement is of, unless a user says otherwise."""

JUDGED, JUDGED_BY_EMBEDDED = 100, 2
"""Of each system (section 6.1); by the embedded model, which is no judge, a few."""
REPEATED = 10
"""Of those, asked a second time; by the embedded model, none."""
DRIFT = {"gpu": 200, "cpu": 2}
"""Validation turns by which a preference training is measured, by where the backbone runs."""
