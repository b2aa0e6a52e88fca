"""The SMOKE mark: which numbers show that everything runs, and are no results."""

from pathlib import Path

from esc import files, paths
from esc.backbones import EMBEDDED
from esc.run_folder import OPTIONS


def is_smoke(model: str, work: Path) -> bool:
    """Whether ``model`` is the embedded one or the sets of ``work`` are of the sample corpus.

    Raises EscError where no sets are built.
    """
    manifest = files.read_json(paths.data_manifest(work), made_by="make data")
    return model == EMBEDDED or bool(manifest["smoke"])


def made_beside(path: Path) -> bool:
    """Whether the options that a step left beside a file of records mark them.

    A file that lies elsewhere says nothing of what it was made with.
    """
    beside = path.parent / OPTIONS
    made_with = files.read_json(beside) if beside.is_file() else None
    return isinstance(made_with, dict) and bool(made_with.get("smoke"))
