"""A dataset card for the sets of a WORK, and a model card for every finished adapter of a MODEL.

    python -m experiments card --model smollm2-135m

Reads the manifests of the built and mined sets, and of each adapter its own recipe, options, losses
and drift, and the metrics of the systems it speaks in; writes ``data/README.md`` and
``saves/<model>/<adapter>/README.md`` (for a preference training also beside the composed adapter,
which is the one to publish). Sends nothing anywhere. Twice gives the same bytes. A README.md that
somebody wrote or changed is left alone without ``--force``.
"""

from collections.abc import Iterator
from pathlib import Path

from esc import backbones, cli, commands, files, paths
from esc.exceptions import EscError
from experiments.cards import dataset_card, model_card, owned
from experiments.cards.found_sets import sets_of
from experiments.cards.trained import FINISHED, Trained, named, read_trained


def card(work: Path, model: str, *, force: bool) -> Iterator[str]:
    """Write the cards; yields a line for each.

    Raises EscError where nothing is built, and at the end with one line where an adapter does not
    belong to the sets that are built, or a README.md is somebody's own.
    """
    backbone = backbones.get(model)
    found = sets_of(work)
    refused: list[str] = []
    with files.exclusive(paths.data(work)):
        told = owned.write(paths.data(work) / owned.README, dataset_card.text(found), force=force)
        refused += told.refusal
        yield told.line
    yield from (f"left out    {note}" for note in found.left_out)
    folders = sorted(path.parent for path in (work / paths.adapters(model)).glob(f"*/{FINISHED}"))
    if not folders:
        train = commands.make("sft-sp", work=work, model=model)
        where = work / paths.adapters(model)
        yield f"no models   no finished adapter in {where}; {train} trains one"
    for folder in folders:
        if named(folder) is None:
            yield f"left out    {folder}: no name of a training of this kit"
            continue
        try:
            trained = read_trained(folder, work, backbone, found)
        except EscError as error:
            refused.append(str(error))
            continue
        for place in _places(trained):
            told = owned.write(place / owned.README, model_card.text(trained, place), force=force)
            refused += told.refusal
            yield told.line
    if refused:
        raise EscError("; ".join(refused))


def _places(trained: Trained) -> tuple[Path, ...]:
    """The folders that one training's card belongs to."""
    both = (trained.folder, trained.served)
    return tuple(dict.fromkeys(both))


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m experiments card",
        description=__doc__,
        examples="  python -m experiments card\n"
        "  python -m experiments card --model qwen2.5-7b --work runs-of-may",
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--force", action="store_true", help="replace a README.md that somebody wrote or changed"
    )
    given = parser.parse_args(argv)
    for line in card(given.work, given.model, force=given.force):
        print(line)
