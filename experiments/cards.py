"""A dataset card for the sets of a WORK, and a model card for every finished adapter of a MODEL.

    python -m experiments card --model smollm2-135m

Reads the manifests of the built and mined sets, and of each adapter its own recipe, options, losses
and drift, and the metrics of the systems it speaks in; writes ``data/README.md`` and
``saves/<model>/<adapter>/README.md`` (for a preference training also beside the composed adapter,
which is the one to publish). Sends nothing anywhere. Twice gives the same bytes. A README.md that
somebody else wrote is left alone without ``--force``.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from huggingface_hub import DatasetCardData, ModelCardData

from esc import adapters, backbones, cli, files, paths, step
from esc.backbones import Backbone
from esc.files import EscError, Row, Written
from esc.paths import EMBEDDED
from esc.predictions import PREDICTIONS
from esc.prompts import TASKS
from esc.records import Built, Metrics, MinedSets
from esc.step import DONE, OPTIONS
from esc.strategies import IS_SHIPPED, Strategy
from esc.visible import markdown
from eval import paper
from eval.report.manifest import Sources
from eval.report.tables import reach
from training.recipes import is_secret

README = "README.md"
TEMPLATES = Path(__file__).parent / "templates"
MARK = "written by make card"
OURS = (
    MARK,
    # What LLaMA-Factory (by transformers) and PEFT put into the cards that they leave.
    "This model card has been generated automatically according to the information the Trainer had",
    "# Model Card for Model ID",
)
"""Words of the cards that are replaced."""
NAMES = {
    "esconv": "ESConv",
    "failed-esconv": "FailedESConv",
    "sample": "the kit's sample corpus",
    "other": "another corpus",
}
PLACES = ("dataset_dir", "output_dir", "adapter_name_or_path", "model_name_or_path")
"""Settings of where files lie on the machine that trained."""
SCORES = {
    "bias": "strategy.bias",
    "weighted F1": "strategy.weighted_f1",
    "macro F1": "strategy.macro_f1",
    "BLEU-1": "text.paper.bleu1",
    "Distinct-1": "text.paper.distinct1",
    "F1": "text.paper.f1",
    "ROUGE-L": "text.paper.rouge_l",
}
"""A number's name on a card to where it stands in ``metrics.json``."""


def _sets_of(work: Path) -> tuple[Built, list[Row], list[str]]:
    """(the manifest of the built sets, all sets, which mined sets do not belong to the built ones).

    A set has its registered ``name``, ``task``, ``kind`` (sft, dpo or kto), ``splits`` (each with
    ``file``, ``rows``, ``sha256``), ``smoke``, and as ``mined`` who sampled, who judged, and rows
    by error. Raises EscError where none are built, or a file is not its manifest's.
    """
    manifest = step.manifest(work)
    built: list[Row] = []
    left_out = []
    for task, layout in ((one, of) for one in TASKS for of in paths.layouts(one)):
        names = {split: paths.sft_file(task, split, layout) for split in paths.SPLITS}
        splits = {split: _file(work, name, manifest.sets) for split, name in names.items()}
        name = paths.sft_dataset(task, layout=layout)
        one = {"name": name, "task": task, "kind": "sft", "splits": splits}
        built.append(one | {"smoke": manifest.smoke, "mined": None})
    for path in sorted((work / paths.DATA).glob("esc_*.manifest.json")):
        mining = files.read_as(MinedSets, path, made_by="make mine")
        if changed := files.differences(mining.provenance["data"], step.train_set(manifest)):
            told = f"mined from other train turns than are built now ({'; '.join(changed)})"
            left_out.append(f"the sets of {path.name}: {told}")
            continue
        for name, facts in mining.sets.items():
            named = paths.preference_of(name)
            if named and facts.rows:
                file = paths.preference_file(name)
                splits = {"train": _file(work, file, {file: facts})}
                rows = files.read_jsonl(work / file)
                # Single wanted replies have no error, others say none.
                wrong = (
                    of["error"] or ("wanted" if of.get("label") else "not said") for of in rows
                )
                errors = dict(Counter(map(str, wrong)).most_common())
                one = {"name": name, "task": named[0], "kind": named[2].kind, "splits": splits}
                smoke = manifest.smoke or mining.smoke
                mined = mining.provenance | {"errors": errors}
                built.append(one | {"smoke": smoke, "mined": mined})
    return manifest, built, left_out


def _file(work: Path, name: str, sets: Mapping[str, Written]) -> Row:
    path, facts = work / name, sets[name]
    if not path.is_file() or files.sha256(path) != facts.sha256:
        again = paths.make("data", work=work)
        raise EscError(
            f"{path} is not the file that its manifest describes (gone, or changed since); {again} "
            "builds SFT sets anew, the mining targets mined ones"
        )
    return {"file": path.name, "rows": facts.rows, "sha256": facts.sha256}


def _dataset_card(work: Path, manifest: Built, built: list[Row]) -> str:
    """The whole card; ``configs`` lets ``datasets.load_dataset`` read the folder itself."""
    kind, smoke = manifest.corpus.kind, any(one["smoke"] for one in built)
    tags = ["dialogue", *["preference-optimization"] * any(one["mined"] for one in built)]
    turns = {split: files.read_jsonl(work / paths.sft_file("rg", split)) for split in paths.SPLITS}
    strategies = {split: Counter(row["strategy"] for row in of) for split, of in turns.items()}
    configs = []
    for one in built:
        splits = [{"split": split, "path": of["file"]} for split, of in one["splits"].items()]
        configs.append({"config_name": one["name"], "data_files": splits})
    data = DatasetCardData(
        **_common(kind, licence_of(kind), tags, smoke=smoke),
        pretty_name=f"DecoupledESC sets from {NAMES[kind]}" + " (SMOKE)" * smoke,
        task_categories=["text-generation", "text-classification"],
        configs=configs,
    )
    about = {"source": NAMES[kind], "kind": kind, "smoke": smoke, "manifest": manifest}
    about |= {"built": built, "strategies": strategies}
    return _card("dataset_card.md.j2", data, names=list(Strategy), splits=paths.SPLITS, **about)


def _common(kind: str, licence: str, tags: list[str], *, smoke: bool) -> Row:
    """Metadata of both cards; a corpus of somebody's own may be in any language."""
    own = ["emotional-support-conversation"] * IS_SHIPPED
    tags = [*own, "llama-factory", *tags, *["smoke-test"] * smoke]
    return {"language": None if kind == "other" else ["en"], "license": licence, "tags": tags}


def _card(template: str, data: Any, **variables: object) -> str:
    """A card: its metadata, the mark, and the body; text of a corpus is no markup in either."""
    cited = {"paper": paper.TITLE, "authors": ", ".join(paper.AUTHORS), "bibtex": paper.BIBTEX}
    body = markdown(TEMPLATES / template, shipped=IS_SHIPPED, **cited, **variables)
    mark = f"<!-- {MARK}, which writes it anew; without this line it is yours and stays -->"
    return f"---\n{data.to_yaml()}\n---\n\n{mark}\n\n{body}\n"


def licence_of(kind: str, backbone: Backbone | None = None) -> str:
    """The licence of what is built from a kind of corpus, or of an adapter trained on it.

    ``other`` is for a person to name: an unknown corpus, or two licences that both bind.
    """
    if backbone and backbone.licence not in ("apache-2.0", "mit"):
        return "other"
    of_sample = backbone.licence if backbone else "apache-2.0"
    licences = {"esconv": "cc-by-nc-4.0", "failed-esconv": "cc-by-nc-4.0", "sample": of_sample}
    return licences.get(kind, "other")


def _model_cards(
    folder: Path, work: Path, backbone: Backbone, manifest: Built, built: list[Row]
) -> Iterator[tuple[Path, str]]:
    """(folder, card) of one finished training: its own, and of a composed adapter.

    Raises EscError where its weights are missing or not composed, or it was trained on other sets
    than are there now: then nothing says under which licence, or of which corpus, it is.
    """
    task, stage, lineage = adapters.parts(folder.name) or ("", "", paths.PAPER)
    served = adapters.folder(work, backbone.name, folder.name)
    options, facts = (files.read_json(folder / name) for name in (OPTIONS, DONE))
    digest = options["training set"]
    trained_on = next((one for one in built if one["splits"]["train"]["sha256"] == digest), None)
    if trained_on is None:
        of = lineage.variables
        again = paths.make(f"{stage}-{task}", work=work, model=backbone.name, **of)
        raise EscError(
            f"{folder} was trained on other sets than are in {work / paths.DATA} now; build those "
            f"again (its options.json names them), or {again} FORCE=1"
        )
    kind = manifest.corpus.kind
    smoke = backbone.name == EMBEDDED or bool(facts["smoke"]) or trained_on["smoke"]
    tags = ["lora", "sft" if stage == "sft" else lineage.kind]
    data = ModelCardData(
        **_common(kind, licence_of(kind, backbone), tags, smoke=smoke),
        base_model=backbone.hub,
        library_name="peft",
        pipeline_tag="text-generation",
        datasets=["thu-coai/esconv"] if kind == "esconv" else None,
    )
    about = {"name": folder.name, "task": task, "stage": stage, "lineage": lineage, "smoke": smoke}
    about |= {"backbone": backbone, "manifest": manifest, "trained_on": trained_on}
    about |= {"options": options, "recipe": _recipe(folder), "facts": facts}
    about["scores"] = list(_scores(work, backbone.name, adapters.fingerprint(served)))
    about["drift"] = files.read_json(folder / "drift.json", default={})
    for place in dict.fromkeys((folder, served)):
        composed = place.name == adapters.SERVED
        # An adapter composed before it was written there has it where the training left it.
        beside = not composed or (place / adapters.FILE).is_file()
        about |= {"composed": composed, "template_beside": beside}
        yield place, _card("model_card.md.j2", data, **about)


def _recipe(folder: Path) -> Row:
    """The settings of a training, without secrets and where files lie on the machine it ran on."""
    path = folder / "recipe.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EscError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    return {name: one for name, one in found.items() if name not in PLACES and not is_secret(name)}


def _scores(work: Path, model: str, fingerprint: str) -> Iterator[Row]:
    """The measured systems that ask the adapter with this fingerprint, in the order of their names.

    Raises EscError where a file of metrics has another form than ``make eval`` gives it.
    """
    sources = Sources(work)
    for path in sorted((work / "runs" / model).glob("*/metrics.json")):
        folder, predictions = path.parent.relative_to(work), path.with_name(PREDICTIONS)
        options = sources.options_of(folder)
        if fingerprint not in (options.get("weights") or {}).values():
            continue
        found = sources.known(folder / path.name, Metrics, sources.make("eval", model, FORCE=1))
        digest = files.sha256(predictions) if predictions.is_file() else None
        # Measured of predictions that are there no more, it is no number of this adapter.
        if found and digest in found.made_with["predictions"]:
            yield {
                "system": folder.name,
                "split": str(options.get("SET")),
                "n": found.n,
                "smoke": found.smoke or bool(options.get("smoke")),
                "numbers": {name: reach(found, place.split(".")) for name, place in SCORES.items()},
            }


def card(work: Path, model: str, *, force: bool) -> Iterator[str]:
    """Write the cards; yields a line for each.

    Raises EscError where nothing is built, and at the end with one line where an adapter does not
    belong to the sets that are built, or a README.md is somebody's own.
    """
    backbone, (manifest, built, left_out) = backbones.get(model), _sets_of(work)
    refused, where = [], work / paths.adapters(model)
    texts = {work / paths.DATA: _dataset_card(work, manifest, built)}
    trained = sorted(path.parent for path in where.glob(f"*/{DONE}"))
    for folder in trained:
        if adapters.parts(folder.name) is None:
            left_out.append(f"{folder}: no name of a training of this kit")
            continue
        try:
            texts |= _model_cards(folder, work, backbone, manifest, built)
        except EscError as error:
            refused.append(str(error))
    yield from (f"left out    {note}" for note in left_out)
    if not trained:
        train = paths.make("sft-sp", work=work, model=model)
        yield f"no models   no finished adapter in {where}; {train} trains one"
    with files.exclusive(work / paths.DATA):
        for path, text in ((place / README, text) for place, text in texts.items()):
            there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if there and there != text and not force and not any(w in there for w in OURS):
                told = "was written by hand; FORCE=1 replaces it, another name keeps it"
                refused.append(f"{path} {told}")
                continue
            files.write_text(path, text)
            yield f"card        {path}{' is up to date' if there == text else ''}"
    if refused:
        raise EscError("; ".join(refused))


@cli.command(
    name="card",
    examples="  python -m experiments card\n"
    "  python -m experiments card --model qwen2.5-7b --work runs-of-may",
)
def main(
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    force: Annotated[
        bool, typer.Option("--force", envvar="FORCE", help="replace what somebody else wrote")
    ] = False,
) -> None:
    """Cards of the sets and of a model's finished adapters, in the Hugging Face hub's format.

    Writes data/README.md and saves/MODEL/ADAPTER/README.md; sends nothing anywhere. A README.md
    that somebody else wrote is left alone.
    """
    for line in card(work, model, force=force):
        print(line)
