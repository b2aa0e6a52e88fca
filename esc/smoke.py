"""The SMOKE mark: which numbers show that everything runs, and are no results."""

from pathlib import Path

from esc import files, paths
from esc.backbones import EMBEDDED


def is_smoke(model: str, work: Path) -> bool:
    """Whether ``model`` is the embedded one or the sets of ``work`` are of the sample corpus.

    Raises EscError where no sets are built.
    """
    manifest = files.read_json(paths.data_manifest(work), made_by="make data")
    return model == EMBEDDED or bool(manifest["smoke"])
