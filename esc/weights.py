"""What answers under a served name, as a hash: two runs with the same hash asked the same model."""

from collections.abc import Sequence
from pathlib import Path

from esc import adapters, backbones, files
from esc.exceptions import EscError

ELSEWHERE = "unknown: served elsewhere"


def weights_of(
    work: Path, model: str, names: Sequence[str], *, elsewhere: bool = False
) -> dict[str, str]:
    """Served name to a hash of what answers under it.

    Raises EscError where an adapter is not trained; ``elsewhere`` says that another machine's
    server may have it, and then it is known by its name alone.
    """
    found = {}
    for name in names:
        if name == adapters.BASE:
            found[name] = _base_identity(backbones.get(model))
            continue
        try:
            found[name] = adapters.fingerprint(adapters.folder(work, model, name))
        except EscError:
            if not elsewhere:
                raise
            found[name] = ELSEWHERE
    return found


def _base_identity(backbone: backbones.Backbone) -> str:
    if backbone.name != backbones.EMBEDDED:
        return backbone.path
    manifest = files.read_json(Path(backbone.location) / "manifest.json", made_by="make model")
    return str(manifest["gguf_sha256"])
