"""The text of a dataset card: metadata the hub and ``datasets`` read, then what a person reads."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import DatasetCardData

from esc import citation, paths, prompts
from esc.markdown import code, plain
from esc.strategies import Strategy
from experiments.cards import licences
from experiments.cards.found_sets import BuiltSet, Sets

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


def text(sets: Sets) -> str:
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
    return f"---\n{metadata(sets).to_yaml()}\n---\n\n{body}\n"


def metadata(sets: Sets) -> DatasetCardData:
    """What the hub reads; ``configs`` lets ``datasets.load_dataset`` read the folder itself."""
    rows = sum(one.rows for found in sets.built for one in found.splits.values())
    tags = ["emotional-support-conversation", "dialogue", "llama-factory"]
    tags += ["preference-optimization"] if any(one.mined for one in sets.built) else []
    return DatasetCardData(
        # A corpus of somebody's own may be in any language.
        language=None if sets.kind == "other" else ["en"],
        license=licences.of_corpus(sets.kind),
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
