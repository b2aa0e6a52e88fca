"""Drivers over the whole kit: demo, doctor, bench."""
