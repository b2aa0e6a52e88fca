"""A dataset card for the sets of a WORK, and a model card for every finished adapter of a MODEL.

    python -m experiments card --model smollm2-135m

Reads the manifests of the built and mined sets, and of each adapter its own recipe, options, losses
and drift, and the metrics of the systems it speaks in; writes ``data/README.md`` and
``saves/<model>/<adapter>/README.md`` (for a preference training also beside the composed adapter,
which is the one to publish). Sends nothing anywhere. Twice gives the same bytes. A README.md that
somebody wrote or changed is left alone without ``--force``.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, RepoCard
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from esc import adapters, backbones, citation, cli, files, paths, prompts, step
from esc.adapters import SERVED
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import EMBEDDED, Lineage, of_suffix
from esc.prompts import PROMPTS, TASKS
from esc.strategies import Strategy
from esc.visible import code, plain
from training.recipes import is_secret

WANTED = "wanted"
"""What stands for the error of a single reply that has none."""


@dataclass(frozen=True, slots=True)
class SetFile:
    """One file of a set."""

    file: str
    """Relative to ``data/``."""
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BuiltSet:
    """One registered set of SFT rows, or of mined pairs or single replies."""

    name: str
    """``esc_sp_sft``, ``esc_rg_dpo_qwen2.5-7b`` …"""
    task: str
    kind: str
    """``sft``, ``dpo`` or ``kto``."""
    splits: dict[str, SetFile]
    mined: Row | None = None
    """Of a mined set: who sampled and who judged."""
    errors: dict[str, int] | None = None
    """Of a mined set: rows by the unwanted reply's error."""


@dataclass(frozen=True, slots=True)
class Sets:
    """All that is published of a WORK."""

    manifest: Row
    built: tuple[BuiltSet, ...]
    strategies: dict[str, dict[Strategy, int]]
    """Split to supporter turns of each strategy."""
    left_out: tuple[str, ...]
    """Mined sets that do not belong to the built ones."""

    @property
    def kind(self) -> str:
        """``esconv``, ``failed-esconv``, ``sample`` or ``other``."""
        return str(self.manifest["corpus"]["kind"])

    @property
    def smoke(self) -> bool:
        """Whether any of them is of the sample corpus, the embedded model or a random judge."""
        return bool(self.manifest["smoke"]) or any(
            one.mined is not None and one.mined["smoke"] for one in self.built
        )


def sets_of(work: Path) -> Sets:
    """The sets under ``work``; EscError where none are built, or a file is not its manifest's."""
    manifest = step.manifest(work)
    sft = tuple(
        BuiltSet(
            paths.sft_dataset(task),
            task,
            "sft",
            {split: _file(work, paths.sft_file(task, split), manifest) for split in paths.SPLITS},
        )
        for task in TASKS
    )
    mined: list[BuiltSet] = []
    left_out = []
    here = step.train_set(manifest)
    for path in sorted(paths.data(work).glob("esc_*.manifest.json")):
        one: Row = files.read_json(path)
        if changed := files.differences(one["provenance"]["data"], here):
            left_out.append(
                f"the sets of {path.name}: mined from other train turns than are built now "
                f"({'; '.join(changed)})"
            )
            continue
        mined += _mined(work, one)
    counts = {split: _strategies(work / paths.sft_file("rg", split)) for split in paths.SPLITS}
    return Sets(manifest, (*sft, *mined), counts, tuple(left_out))


def _mined(work: Path, manifest: Row) -> list[BuiltSet]:
    found = []
    for name, facts in manifest["sets"].items():
        named = paths.preference_of(name)
        if named is None or not facts["rows"]:
            continue
        task, _, lineage = named
        file = paths.preference_file(name)
        one = _file(work, file, manifest | {"sets": {file: facts}})
        mined = manifest["provenance"] | {"smoke": manifest["smoke"]}
        errors = Counter(_error(row) for row in files.read_jsonl(work / file))
        found.append(
            BuiltSet(name, task, lineage.kind, {"train": one}, mined, dict(errors.most_common()))
        )
    return found


def _error(row: Row) -> str:
    """What is wrong with the unwanted reply of a row; a pair of others may not say."""
    return str(row["error"] or (WANTED if row.get("label") else "not said"))


def _file(work: Path, name: str, manifest: dict[str, Any]) -> SetFile:
    path, facts = work / name, manifest["sets"][name]
    if not path.is_file() or files.sha256(path) != facts["sha256"]:
        again = paths.make("data", work=work)
        raise EscError(
            f"{path} is not the file that its manifest describes (gone, or changed since); {again} "
            "builds SFT sets anew, the mining targets mined ones"
        )
    return SetFile(path.name, facts["rows"], facts["sha256"])


def _strategies(path: Path) -> dict[Strategy, int]:
    counts = Counter(Strategy(row["strategy"]) for row in files.read_jsonl(path))
    return {strategy: counts[strategy] for strategy in Strategy}


_OF_CORPUS = {
    "esconv": "cc-by-nc-4.0",
    "failed-esconv": "cc-by-nc-4.0",
    "sample": "apache-2.0",
    "other": "other",
}
_OF_BASE = {
    "apache-2.0": "Apache License 2.0: keep its notice.",
    "llama3.1": (
        "Llama 3.1 Community License, with its acceptable use policy: a model made from it is "
        'published under a name that begins with "Llama", with "Built with Llama" shown and the '
        "licence enclosed."
    ),
    "gemma": "Gemma Terms of Use, with their prohibited use policy: pass both on with the model.",
    "qwen": "Qwen License Agreement: enclose it, and state what was changed.",
}


def of_corpus(kind: str) -> str:
    """The licence of what is built from a kind of corpus; ``other`` is for a person to name."""
    return _OF_CORPUS[kind]


def of_adapter(kind: str, backbone: Backbone) -> str:
    """The licence of an adapter: the corpus's where that is known, unless the base's is narrower.

    Of two licences that both bind, one identifier cannot name both: then it is ``other``.
    """
    if kind == "sample":
        return backbone.licence if backbone.licence in ("apache-2.0", "mit") else "other"
    return _OF_CORPUS[kind] if backbone.licence in ("apache-2.0", "mit") else "other"


def of_base(backbone: Backbone) -> str:
    """A sentence on the base model's licence."""
    said = _OF_BASE.get(backbone.licence, f"{backbone.licence}: read it before you publish.")
    return f"The base model's licence applies to whatever is merged with it. {said}"


CITED = {
    "paper": citation.TITLE,
    "authors": ", ".join(citation.AUTHORS),
    "bibtex": citation.BIBTEX,
}
"""What both cards say of the paper."""
TEMPLATES = Path(__file__).parent / "templates"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_NAMES = {
    "esconv": "ESConv",
    "failed-esconv": "FailedESConv",
    "sample": "the kit's sample corpus",
    "other": "another corpus",
}
CONSECUTIVE = {
    "separate": "every supporter utterance is a turn of its own, with a blank seeker turn between",
    "merge-same": "neighbouring supporter utterances of one strategy are one turn",
    "merge": "consecutive supporter utterances are one turn, under the first one's strategy",
}


def dataset_text(sets: Sets) -> str:
    """The whole card. What stands in a corpus or its file's name is data there, and no markup."""
    corpus, options = sets.manifest["corpus"], sets.manifest["options"]
    body = prompts.render(
        TEMPLATES,
        "dataset_card.md.j2",
        **CITED,
        source=_NAMES[sets.kind],
        kind=sets.kind,
        smoke=sets.smoke,
        licence=plain(sets.manifest["licence"]),
        origin=code(corpus["origin"]),
        corpus=corpus,
        corpus_files=[(code(name), sha256) for name, sha256 in corpus["files"].items()],
        sets=list(_rows_of_sets(sets)),
        strategies=list(_rows_of_strategies(sets)),
        splits=paths.SPLITS,
        mined=list(_rows_of_mined(sets)),
        kinds={one.kind for one in sets.built},
        first=code(sets.built[0].name),
        split=code(options["SPLIT"]),
        limit=options["LIMIT"],
        consecutive=CONSECUTIVE[options["CONSECUTIVE"]],
        options=[
            (code(name), code("unset" if value is None else str(value)))
            for name, value in options.items()
        ],
        leaks=len(sets.manifest["leaks"]),
        files=[
            (code(one.file), one.rows, one.sha256)
            for found in sets.built
            for one in found.splits.values()
        ],
    )
    return f"---\n{dataset_metadata(sets).to_yaml()}\n---\n\n{body}\n"


def dataset_metadata(sets: Sets) -> DatasetCardData:
    """What the hub reads; ``configs`` lets ``datasets.load_dataset`` read the folder itself."""
    rows = sum(one.rows for found in sets.built for one in found.splits.values())
    tags = ["emotional-support-conversation", "dialogue", "llama-factory"]
    tags += ["preference-optimization"] if any(one.mined for one in sets.built) else []
    return DatasetCardData(
        # A corpus of somebody's own may be in any language.
        language=None if sets.kind == "other" else ["en"],
        license=of_corpus(sets.kind),
        pretty_name=f"DecoupledESC sets from {_NAMES[sets.kind]}" + " (SMOKE)" * sets.smoke,
        task_categories=["text-generation", "text-classification"],
        size_categories=[next((name for top, name in _SIZES if rows < top), "1M<n<10M")],
        tags=tags + ["smoke-test"] * sets.smoke,
        configs=[_config(found) for found in sets.built],
    )


def _config(found: BuiltSet) -> dict[str, object]:
    data_files = [{"split": name, "path": one.file} for name, one in found.splits.items()]
    return {"config_name": found.name, "data_files": data_files}


def _rows_of_sets(sets: Sets) -> Iterator[tuple[str, str, list[str]]]:
    kinds = {"sft": "SFT", "dpo": "pairs (DPO)", "kto": "single replies (KTO)"}
    tasks = {"sp": "strategy planner", "rg": "response generator", "vanilla": "entangled model"}
    for one in sets.built:
        counts = [f"{one.splits[s].rows:,}" if s in one.splits else "" for s in paths.SPLITS]
        mark = " SMOKE" if sets.manifest["smoke"] or (one.mined and one.mined["smoke"]) else ""
        yield code(one.name), f"{tasks[one.task]}, {kinds[one.kind]}{mark}", counts


def _rows_of_strategies(sets: Sets) -> Iterator[tuple[str, list[str]]]:
    totals = {split: sum(counts.values()) for split, counts in sets.strategies.items()}
    for strategy in Strategy:
        counts = {split: sets.strategies[split][strategy] for split in paths.SPLITS}
        yield (
            plain(strategy),
            [f"{n:,} ({n / (totals[split] or 1):.1%})" for split, n in counts.items()],
        )


def _rows_of_mined(sets: Sets) -> Iterator[dict[str, object]]:
    for one in sets.built:
        if one.mined is None or one.errors is None:
            continue
        judge = one.mined["judge"]
        yield {
            "name": code(one.name),
            "sampler": code(f"{one.mined['sampler']} of {one.mined['model']}"),
            "weights": code(one.mined["weights"]),
            "judge": code(judge) if judge else "none (strategies are compared)",
            "errors": ", ".join(f"{count:,} {plain(name)}" for name, count in one.errors.items()),
        }


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Number(_Shape):
    """A value with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    signature: str


class _Strategy(_Shape):
    bias: Number
    weighted_f1: Number
    macro_f1: Number


class _Paper(_Shape):
    bleu1: Number
    distinct1: Number
    f1: Number
    rouge_l: Number


class _Text(_Shape):
    paper: _Paper


class _MadeWith(_Shape):
    predictions: list[str]


class _Metrics(_Shape):
    n: int
    smoke: bool
    made_with: _MadeWith
    strategy: _Strategy
    text: _Text


@dataclass(frozen=True, slots=True)
class Scores:
    """The numbers of one system."""

    system: str
    """Of its folder, such as ``decoupled_sft``."""
    split: str
    n: int
    smoke: bool
    numbers: dict[str, Number]
    """By the name a reader knows."""


def scores_of(work: Path, model: str, fingerprint: str) -> Iterator[Scores]:
    """The measured systems that ask the adapter with this fingerprint, in the order of their names.

    Raises EscError where a file of metrics has another form than ``make eval`` gives it.
    """
    for path in sorted((work / "runs" / model).glob("*/metrics.json")):
        options_path = path.with_name("options.json")
        options: Row = files.read_json(options_path) if options_path.is_file() else {}
        weights = options.get("weights")
        if not isinstance(weights, dict) or fingerprint not in weights.values():
            continue
        found = _read(path, work, model)
        predictions = path.with_name("predictions.jsonl")
        # Measured of predictions that are there no more: no number of this adapter.
        if (
            not predictions.is_file()
            or files.sha256(predictions) not in found.made_with.predictions
        ):
            continue
        strategy, text = found.strategy, found.text.paper
        yield Scores(
            path.parent.name,
            str(options.get("SET")),
            found.n,
            found.smoke or bool(options.get("smoke")),
            {
                "bias": strategy.bias,
                "weighted F1": strategy.weighted_f1,
                "macro F1": strategy.macro_f1,
                "BLEU-1": text.bleu1,
                "Distinct-1": text.distinct1,
                "F1": text.f1,
                "ROUGE-L": text.rouge_l,
            },
        )


def _read(path: Path, work: Path, model: str) -> _Metrics:
    try:
        return _Metrics.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        again = paths.make("eval", work=work, model=model, FORCE=1)
        raise EscError(f"{path}: {where}: {first['msg']}; {again} measures anew") from error


FINISHED = "run.json"
"""A training's last file."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished training."""

    folder: Path
    served: Path
    """The folder to publish: for a preference training the adapter composed with what it is on."""
    backbone: Backbone
    task: str
    stage: str
    lineage: Lineage
    sets: Sets
    trained_on: BuiltSet
    options: Row
    facts: Row
    """Of ``run.json``: steps, first and last loss, seconds."""
    recipe: dict[str, Any]
    drift: Row | None
    scores: tuple[Scores, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def smoke(self) -> bool:
        """Whether it is of the embedded model, the sample corpus or a random judge."""
        mined = self.trained_on.mined
        return (
            self.backbone.name == EMBEDDED
            or bool(self.facts["smoke"])
            or bool(self.sets.manifest["smoke"])
            or bool(mined and mined["smoke"])
        )


def read_trained(folder: Path, work: Path, backbone: Backbone, sets: Sets) -> Trained:
    """The training in ``folder``.

    Raises EscError where its weights are missing or not composed, or it was trained on other sets
    than are there now: then nothing says under which licence, or of which corpus, it is.
    """
    of_name = named(folder)
    assert of_name is not None, "asked for trainings alone"
    task, stage, lineage = of_name
    adapters.check(folder, work, backbone.name)
    served = adapters.folder(work, backbone.name, adapters.served_name(task, stage, lineage))
    options: Row = files.read_json(folder / "options.json")
    trained_on = _trained_on(options, sets)
    if trained_on is None:
        again = paths.make(f"{stage}-{task}", work=work, model=backbone.name)
        raise EscError(
            f"{folder} was trained on other sets than are in {paths.data(work)} now; build those "
            f"again (its options.json names them), or {again} FORCE=1"
        )
    drift = folder / "drift.json"
    return Trained(
        folder=folder,
        served=served,
        backbone=backbone,
        task=task,
        stage=stage,
        lineage=lineage,
        sets=sets,
        trained_on=trained_on,
        options=options,
        facts=files.read_json(folder / FINISHED),
        recipe=_recipe(folder / "recipe.yaml"),
        drift=files.read_json(drift) if drift.is_file() else None,
        scores=tuple(scores_of(work, backbone.name, adapters.fingerprint(served))),
    )


def named(folder: Path) -> tuple[str, str, Lineage] | None:
    """(task, stage, lineage) that a folder's name says, or None where it is no training's."""
    task, stage, suffix = (*folder.name.split("_", maxsplit=2), "", "")[:3]
    lineage = of_suffix(f"_{suffix}" if suffix else "")
    if lineage is None or task not in TASKS or stage not in ("sft", "dpo"):
        return None
    return None if stage == "sft" and suffix else (task, stage, lineage)


def _recipe(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EscError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or "stage" not in found:
        raise EscError(f"{path} is no recipe of LLaMA-Factory: it has no stage")
    return found


def _trained_on(options: Row, sets: Sets) -> BuiltSet | None:
    digest = options["training set"]
    return next((one for one in sets.built if one.splits["train"].sha256 == digest), None)


_TASKS = {"sp": "strategy planner", "rg": "response generator", "vanilla": "entangled model"}
_DOES = {
    "sp": "reads a support chat and names the strategy of the supporter's next reply",
    "rg": "writes the supporter's next reply under a strategy that is given to it",
    "vanilla": "writes the supporter's next reply as `[Strategy] reply`, both at once",
}
_SYSTEM_PROMPTS = {name.partition("_")[0]: name for name in PROMPTS}
# What says where files lie on the machine that trained, and nothing of the training.
_PLACES = ("dataset_dir", "output_dir", "adapter_name_or_path", "model_name_or_path")


def model_text(trained: Trained, place: Path) -> str:
    """The whole card for the adapter in ``place``: the training's folder, or the composed one."""
    mined, recipe, composed = trained.trained_on.mined, trained.recipe, place.name == SERVED
    body = prompts.render(
        TEMPLATES,
        "model_card.md.j2",
        **CITED,
        title=code(f"{trained.backbone.name}/{trained.name}"),
        smoke=trained.smoke,
        what=_TASKS[trained.task],
        does=_DOES[trained.task],
        task=trained.task,
        stage=trained.stage,
        variant=code(trained.lineage.variant) if trained.lineage.variant else "",
        round=trained.lineage.round,
        composed=composed,
        is_delta=trained.stage == "dpo" and not composed,
        served=SERVED,
        # A folder's name says nothing to others, and where it lies is nobody's business.
        base=code(trained.backbone.hub or trained.backbone.name),
        base_licence=of_base(trained.backbone),
        # An adapter composed before it was written there has it where the training left it.
        template_beside=not composed or (place / adapters.FILE).is_file(),
        template=code(trained.backbone.template),
        system_prompt=code(_SYSTEM_PROMPTS[trained.task]),
        licence=plain(trained.sets.manifest["licence"]),
        set_name=code(trained.trained_on.name),
        set_rows=trained.trained_on.splits["train"].rows,
        set_sha256=trained.trained_on.splits["train"].sha256,
        origin=code(trained.sets.manifest["corpus"]["origin"]),
        split=code(trained.sets.manifest["options"]["SPLIT"]),
        judge=code(mined["judge"]) if mined and mined["judge"] else "",
        starts=[
            (code(name.removeprefix("adapter ")), code(value))
            for name, value in trained.options.items()
            if name.startswith("adapter ")
        ],
        recipe=[
            (code(name), code(str(value)))
            for name, value in recipe.items()
            if name not in _PLACES and not is_secret(name)
        ],
        batch=trained.options["batch"],
        facts=trained.facts,
        drift=trained.drift,
        scores=[
            (
                code(one.system),
                plain(one.split),
                one.n,
                one.smoke,
                list(map(_shown, one.numbers.values())),
            )
            for one in trained.scores
        ],
        columns=list(trained.scores[0].numbers) if trained.scores else [],
    )
    return f"---\n{model_metadata(trained).to_yaml()}\n---\n\n{body}\n"


def _shown(number: Number) -> str:
    if number.value is None:
        return "undefined"
    if number.low is None or number.high is None:
        return f"{number.value:.2f}"
    return f"{number.value:.2f} [{number.low:.2f}, {number.high:.2f}]"


def model_metadata(trained: Trained) -> ModelCardData:
    """What the hub reads. Numbers of a smoke run stay out of it: there they would be results."""
    results = [] if trained.smoke else list(_results(trained))
    tags = ["emotional-support-conversation", "lora", "llama-factory", trained.recipe["stage"]]
    kind = trained.sets.kind
    return ModelCardData(
        base_model=trained.backbone.hub,
        library_name="peft",
        pipeline_tag="text-generation",
        license=of_adapter(kind, trained.backbone),
        language=None if kind == "other" else ["en"],
        datasets=["thu-coai/esconv"] if kind == "esconv" else None,
        tags=tags + ["smoke-test"] * trained.smoke,
        model_name=f"{trained.backbone.name} {trained.name}" if results else None,
        eval_results=results or None,
    )


def _results(trained: Trained) -> Iterator[EvalResult]:
    corpus = trained.sets.kind
    for one in trained.scores:
        for name, number in one.numbers.items():
            if one.smoke or number.value is None:
                continue
            yield EvalResult(
                task_type="text-generation",
                task_name=f"system {one.system}",
                dataset_type="thu-coai/esconv" if corpus == "esconv" else corpus,
                dataset_name=f"{corpus}, {one.n} turns",
                dataset_split=one.split,
                dataset_config=one.system,
                metric_type=name.lower().replace(" ", "_").replace("-", "_"),
                metric_name=name,
                metric_value=round(number.value, 4),
            )


README = "README.md"
_MARK = re.compile(r"\n<!-- written by make card \(([0-9a-f]{64})\); [^\n]* -->\n")
_LEFT_BY_A_TRAINER = (
    "This model card has been generated automatically according to the information the Trainer had",
    "# Model Card for Model ID",
)
"""What LLaMA-Factory (by transformers) and PEFT put into the cards that they leave."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a card."""

    line: str
    refusal: tuple[str, ...] = ()


def write(path: Path, text: str, *, force: bool) -> Told:
    """Write a card where there is none, or one that a program left; refuse to replace another.

    Raises EscError where the Hugging Face library does not read in it what was written.
    """
    whole = _marked(text)
    check(whole, path)
    there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if there == whole:
        return Told(f"card        {path} is up to date")
    if there is not None and not force and not _is_a_programs(there):
        return Told(
            f"kept        {path}",
            (f"{path} was written or changed by hand; FORCE=1 replaces it, another name keeps it",),
        )
    files.write_text(path, whole)
    return Told(f"card        {path}")


def _marked(text: str) -> str:
    head, front, body = text.split("---\n", maxsplit=2)
    assert not head, "a card begins with its metadata"
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = (
        f"\n<!-- written by make card ({digest}); "
        "it writes the file anew unless you change something in it -->\n"
    )
    return f"---\n{front}---\n{mark}{body}"


def _is_a_programs(text: str) -> bool:
    mark = _MARK.search(text)
    if mark is None:
        return any(phrase in text for phrase in _LEFT_BY_A_TRAINER)
    without = text[: mark.start()] + text[mark.end() :]
    return hashlib.sha256(without.encode()).hexdigest() == mark[1]


def check(text: str, path: Path) -> None:
    """Raise EscError where the hub's own reader finds no metadata in a card, or other ones."""
    try:
        card = RepoCard(text, ignore_metadata_errors=False)
    except (ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise EscError(f"{path}: the Hugging Face library does not read it ({reason})") from error
    again = RepoCard(str(card), ignore_metadata_errors=False)
    if not len(card.data) or again.data.to_yaml() != card.data.to_yaml():
        raise EscError(f"{path}: its metadata do not survive the Hugging Face library")


def card(work: Path, model: str, *, force: bool) -> Iterator[str]:
    """Write the cards; yields a line for each.

    Raises EscError where nothing is built, and at the end with one line where an adapter does not
    belong to the sets that are built, or a README.md is somebody's own.
    """
    backbone = backbones.get(model)
    found = sets_of(work)
    refused: list[str] = []
    with files.exclusive(paths.data(work)):
        told = write(paths.data(work) / README, dataset_text(found), force=force)
        refused += told.refusal
        yield told.line
    yield from (f"left out    {note}" for note in found.left_out)
    folders = sorted(path.parent for path in (work / paths.adapters(model)).glob(f"*/{FINISHED}"))
    if not folders:
        train = paths.make("sft-sp", work=work, model=model)
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
            told = write(place / README, model_text(trained, place), force=force)
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
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--force", action="store_true", help="replace a README.md that somebody wrote or changed"
    )
    given = parser.parse_args(argv)
    for line in card(given.work, given.model, force=given.force):
        print(line)
