"""Every row of every registered set through LLaMA-Factory's converter, template and tokenizer.

    python -m data_builders check --model smollm2-135m

Prints rows kept, dropped and cut, and quantiles of the length in tokens, and writes them to
``data/check_<model>.json``; fails on any loss. Mislabelled is a row with another number of spans
that carry the loss than of replies to learn, counted in what a trainer loads, its mends included.
LLaMA-Factory itself drops a malformed row with a warning, and cuts a long one in silence.
Sets that are not there yet (the mined ones) are listed as absent.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from data_builders.registry import entries, preference_entry
from esc import backbones, cli, files, paths
from esc.exceptions import EscError
from esc.files import Row
from esc.step import is_smoke

# Long enough for any row, so that LLaMA-Factory itself shows a row's full length.
UNCUT = 10**7
QUANTILES = (0.5, 0.9, 0.99, 1.0)
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one row."""

    id: str
    tokens: int
    """Full length in tokens of the longest side; 0 for a dropped row."""
    fate: str
    """``kept``, or one of the keys of `_FATES`."""


Judge = Callable[[Row], Verdict]


def check(model: str, work: Path, processes: int) -> list[Row]:
    """One summary per registered set of ``model``: counts, quantiles, ids of what was lost.

    Raises EscError where the registry lacks a set or a column of one, or a set is there and empty.
    """
    backbones.get(model)
    registry_path = work / paths.REGISTRY
    registered = files.read_json(registry_path, made_by="make data")
    # Later rounds are registered as they are mined.
    later = (name for name in registered if name not in entries() and paths.preference_of(name))
    wanted = [name for name in (*entries(), *later) if not _is_of_another_model(name, model)]
    missing = [name for name in wanted if name not in registered]
    anew = f"'python -m data_builders registry --work {work}' writes it anew"
    if missing:
        raise EscError(f"{registry_path} lacks {', '.join(missing)}; {anew}")
    changed = [told for name in wanted for told in _changed(name, registered[name])]
    if changed:
        raise EscError(
            f"{registry_path} is not this kit's ({'; '.join(changed)}): LLaMA-Factory would leave "
            f"out what it does not name; {anew}"
        )
    present = [name for name in wanted if (work / registered[name]["file_name"]).is_file()]
    unbuilt = [n for n in wanted if n not in present and not paths.preference_of(n)]
    if unbuilt:
        raise EscError(f"{', '.join(unbuilt)} not built under {paths.data(work)}; run 'make data'")
    recipes = {name: _recipe(name, model) for name in present}
    # Spawned, not forked: the tokenizers hold threads. One pool, since LLaMA-Factory loads slowly.
    with get_context("spawn").Pool(processes, _start_worker, (recipes, work)) as pool:
        return [
            _summary(name, list(_verdicts(pool, name, work / registered[name]["file_name"])))
            if name in present
            else {"set": name, "absent": True}
            for name in wanted
        ]


def _changed(name: str, entry: Row) -> list[str]:
    """What an entry says in another way than this kit's own, but for where its file is."""
    mined = paths.preference_of(name)
    ours = preference_entry(*mined)[1] if mined else entries()[name]
    return [
        f"{name}: {told}"
        for told in files.differences(_flat(entry), _flat(ours))
        if not told.startswith("file_name ")
    ]


def _flat(entry: Row) -> Row:
    """An entry with each column and tag as an option of its own."""
    nested = {key: value for key, value in entry.items() if isinstance(value, dict)}
    inner = {f"{key}.{k}": v for key, value in nested.items() for k, v in value.items()}
    return {key: value for key, value in entry.items() if key not in nested} | inner


def _is_of_another_model(name: str, model: str) -> bool:
    mined = paths.preference_of(name)
    return mined is not None and mined[1] != model


def _recipe(name: str, model: str) -> Path:
    task = name.split("_")[1]
    return paths.recipe(model, task, "dpo" if paths.preference_of(name) else "sft")


def _verdicts(pool: Pool, name: str, path: Path) -> Iterator[Verdict]:
    with path.open("rb") as stream:
        total = sum(1 for _ in stream)
    rows = ((name, row) for row in files.read_jsonl(path))
    verdicts = pool.imap(_judge_in_worker, rows, chunksize=32)
    yield from tqdm(verdicts, desc=name, total=total, unit=" rows", leave=False)


_judge_of: Callable[[str], Judge]


def _start_worker(recipes: dict[str, Path], work: Path) -> None:
    global _judge_of
    # The report says what is lost; LLaMA-Factory would print the whole text of each lost row.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    _mend()
    _judge_of = cache(lambda name: judge_for(recipes[name], name, work))


def _mend() -> None:
    """Mend LLaMA-Factory as a training's process does when it starts; before it is imported."""
    spec = spec_from_file_location("in_llamafactory", paths.IN_LLAMAFACTORY / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))


def _judge_in_worker(named_row: tuple[str, Row]) -> Verdict:
    name, row = named_row
    return _judge_of(name)(row)


def judge_for(recipe: Path, name: str, work: Path) -> Judge:
    """A function from a row of the registered set ``name`` to its verdict under ``recipe``.

    It judges by the LLaMA-Factory of this process, mended or not.
    """
    # LLaMA-Factory takes seconds to import, and only this step of the package needs it.
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.data.processor import (
        FeedbackDatasetProcessor,
        PairwiseDatasetProcessor,
        SupervisedDatasetProcessor,
    )
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.extras.constants import IGNORE_INDEX
    from llamafactory.hparams import DataArguments

    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    cutoff = settings["cutoff_len"]
    its_own = {
        key: settings[key] for key in settings.keys() & {f.name for f in fields(DataArguments)}
    }
    arguments = DataArguments(**its_own | {"cutoff_len": UNCUT})
    tokenizer = _tokenizer(settings["model_name_or_path"])
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    (attributes,) = get_dataset_list([name], str(work))
    converter = get_dataset_converter(attributes.formatting, attributes, arguments)
    kind = SupervisedDatasetProcessor
    if attributes.ranking or attributes.kto_tag:
        kind = PairwiseDatasetProcessor if attributes.ranking else FeedbackDatasetProcessor
    processor = kind(template=template, tokenizer=tokenizer, processor=None, data_args=arguments)
    special = [token for token in tokenizer.all_special_tokens if token]

    def judge(row: Row) -> Verdict:
        row_id = str(row.get("id"))
        try:
            aligned = converter(row)
        except KeyError as error:
            raise EscError(f"{name}, row {row_id}: no column or tag {error}") from error
        texts = [m["content"] for m in aligned["_prompt"] + aligned["_response"]]
        if any(token in text for text in [*texts, aligned["_system"] or ""] for token in special):
            return Verdict(row_id, 0, "forged")
        encoded = processor.preprocess_dataset({key: [value] for key, value in aligned.items()})
        lengths = [len(ids) for key, (ids,) in encoded.items() if key.endswith("input_ids")]
        if not lengths:
            return Verdict(row_id, 0, "dropped")
        learned = {
            _spans(labels, IGNORE_INDEX)
            for key, (labels,) in encoded.items()
            if key.endswith("labels")
        }
        fate = "kept" if learned == {_replies(name, row)} else "mislabelled"
        return Verdict(row_id, max(lengths), "cut" if max(lengths) > cutoff else fate)

    return judge


def _replies(name: str, row: Row) -> int:
    """How many replies a row teaches: the entangled model's SFT all it holds, any other one."""
    if paths.preference_of(name) or "conversations" not in row:
        return 1
    return sum(message["from"] == "gpt" for message in row["conversations"])


def _spans(labels: list[int], ignored: int) -> int:
    """Runs of tokens that carry the loss."""
    return sum(before == ignored != label for before, label in pairwise([ignored, *labels]))


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    if path.startswith("models/") and not Path(path).is_dir():
        raise EscError(f"{path} is not there; 'make model' prepares the embedded model")
    try:
        return AutoTokenizer.from_pretrained(path)
    except OSError as error:
        raise EscError(
            f"the tokenizer of {path} cannot be loaded; it needs the hub, or a local copy in its "
            f"cache ({str(error).splitlines()[0]})"
        ) from error


def _summary(name: str, verdicts: list[Verdict]) -> Row:
    if not verdicts:
        raise EscError(f"set {name} is there but has no rows; build it again")
    lengths = sorted(verdict.tokens for verdict in verdicts if verdict.tokens) or [0]
    lost: dict[str, list[str]] = {fate: [] for fate in _FATES}
    for verdict in verdicts:
        if verdict.fate != "kept":
            lost[verdict.fate].append(verdict.id)
    return {
        "set": name,
        "rows": len(verdicts),
        "kept": len(verdicts) - sum(map(len, lost.values())),
        **lost,
        "total_tokens": sum(lengths),
        "tokens": {q: lengths[min(int(q * len(lengths)), len(lengths) - 1)] for q in QUANTILES},
    }


def report(summaries: list[Row], model: str) -> Iterator[str]:
    """The lines one should see: a table, then the ids of what was lost."""
    yield f"{model}: rows kept / dropped / cut, and length in tokens"
    yield (
        f"  {'set':<32}{'rows':>8}{'kept':>8}{'dropped':>9}{'cut':>6}{'forged':>8}"
        f"{'mislabelled':>13}"
        + "".join(f"{'max' if q == 1 else f'p{q * 100:.0f}':>8}" for q in QUANTILES)
    )
    for summary in summaries:
        if "absent" in summary:
            yield f"  {summary['set']:<32}{'absent (not mined yet)':>24}"
            continue
        counts = f"{summary['rows']:>8,}{summary['kept']:>8,}"
        counts += f"{len(summary['dropped']):>9,}{len(summary['cut']):>6,}"
        counts += f"{len(summary['forged']):>8,}{len(summary['mislabelled']):>13,}"
        lengths = "".join(f"{summary['tokens'][q]:>8,}" for q in QUANTILES)
        yield f"  {summary['set']:<32}{counts}{lengths}"
    for summary in summaries:
        for fate in _FATES:
            if ids := summary.get(fate):
                shown = ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
                yield f"  {summary['set']}: {len(ids)} {_FATES[fate]}: {shown}"


_FATES = {
    "dropped": "dropped by LLaMA-Factory as malformed",
    "cut": "longer than the recipe's cutoff_len and cut",
    "forged": "with a special token of the model in the text",
    "mislabelled": "with another number of spans that carry the loss than of replies to learn",
}


def main(argv: list[str]) -> int:
    """Command line of the step; exit code 1 where a row is lost."""
    parser = cli.parser(
        prog="python -m data_builders check",
        description=__doc__,
        examples=(
            "  python -m data_builders check\n"
            "  python -m data_builders check --model qwen2.5-7b --work demo"
        ),
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    parser.add_argument("--processes", type=cli.optional_count, help="default: one for each core")
    arguments = parser.parse_args(argv)
    processes = arguments.processes or os.cpu_count() or 1
    summaries = check(arguments.model, arguments.work, processes)
    print("\n".join(report(summaries, arguments.model)))
    lossless = all(s["kept"] == s["rows"] for s in summaries if "absent" not in s)
    smoke = is_smoke(arguments.model, arguments.work)
    files.write_json(
        paths.checked(arguments.work, arguments.model),
        {"lossless": lossless, "smoke": smoke, "sets": summaries},
    )
    if smoke:
        print("SMOKE: embedded model or sample corpus; the lengths are of no real training")
    failed = "FAILED: rows are lost or mislabelled (see above)"
    print("ok: nothing dropped, nothing cut" if lossless else failed)
    return 0 if lossless else 1
