"""Every row of every registered set through LLaMA-Factory's converter, template and tokenizer.

Prints rows kept, dropped and cut, and quantiles of the length in tokens, and writes them to
``data/check_<model>.json``. Mislabelled is a row with another number of spans that carry the loss
than of replies to learn, counted in what a trainer loads, its mends included.
"""

import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from data_builders.registry import entries
from esc import adapters, backbones, cli, files, paths
from esc.files import EscError, Row
from esc.paths import Lineage
from esc.step import SMOKE, is_smoke

# Long enough for any row, so that LLaMA-Factory itself shows a row's full length.
UNCUT = 10**7
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
FATES = {
    "dropped": "dropped by LLaMA-Factory as malformed",
    "cut": "longer than the recipe's cutoff_len and cut",
    "forged": "with a special token of the model in the text",
    "mislabelled": "with another number of spans that carry the loss than of replies to learn",
}


_loaded = cache(adapters.load)


def check(model: str, work: Path) -> list[Row]:
    """One summary per registered set of ``model``: counts, quantiles, ids of what was lost.

    Mined sets may be ``absent``; EscError where the registry lacks a set or column, or it is empty.
    """
    from datasets import Dataset

    backbones.get(model)
    registered = files.read_json(work / paths.REGISTRY, made_by="make data")
    summaries: list[Row] = []
    for name, entry in entries(registered).items():
        mined = paths.preference_of(name)
        if mined and mined[1] != model:
            continue
        there = registered.get(name, {})
        if there | {"file_name": None} != entry | {"file_name": None}:
            raise EscError(
                f"{work / paths.REGISTRY} lacks this kit's entry of {name}, or a column of it, "
                "which LLaMA-Factory would leave out; "
                f"'python -m data_builders registry --work {work}' writes it anew"
            )
        path = work / there["file_name"]
        if mined and not path.is_file():
            summaries.append({"set": name, "absent": True})
            continue
        columns = ["id", *entry["columns"].values()]
        rows = [{column: row.get(column) for column in columns} for row in files.read_jsonl(path)]
        if not rows:
            raise EscError(f"set {name} is there but has no rows; build it again")
        named = mined[2].layout if mined else paths.layout_of(name)
        of = Lineage(layout=named)
        recipe = paths.recipe(model, name.split("_")[1], "dpo" if mined else "sft", of)
        verdicts = Dataset.from_list(rows).map(
            judge_for(recipe, name, work),
            num_proc=min(os.cpu_count() or 1, len(rows) // 200) or None,
            remove_columns=columns,
            new_fingerprint=name,
            desc=name,
        )
        summaries.append({"set": name} | _summary(verdicts.to_pandas()))
    return summaries


def judge_for(recipe: Path, name: str, work: Path) -> Callable[[Row], Row]:
    """A function from a row of the registered set ``name`` to its verdict under ``recipe``.

    ``fate`` is ``kept`` or one of `FATES`, ``tokens`` the length of the longest side, 0 if dropped.
    """
    # LLaMA-Factory takes seconds to import, and only this step of the package needs it.
    from llamafactory.data import processor as processors
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.extras.constants import IGNORE_INDEX
    from llamafactory.hparams import DataArguments

    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    cutoff = settings["cutoff_len"]
    its_own = settings.keys() & {field.name for field in fields(DataArguments)}
    arguments = DataArguments(**{key: settings[key] for key in its_own} | {"cutoff_len": UNCUT})
    tokenizer, template = _loaded(settings["model_name_or_path"], settings["template"])
    (attributes,) = get_dataset_list([name], str(work))
    converter = get_dataset_converter(attributes.formatting, attributes, arguments)
    kind = "Pairwise" if attributes.ranking else "Feedback" if attributes.kto_tag else "Supervised"
    processor = getattr(processors, f"{kind}DatasetProcessor")(
        template=template, tokenizer=tokenizer, processor=None, data_args=arguments
    )
    special = [token for token in tokenizer.all_special_tokens if token]

    def judge(row: Row) -> Row:
        aligned = converter(row)
        encoded = processor.preprocess_dataset({key: [value] for key, value in aligned.items()})
        lengths = [len(ids) for key, (ids,) in encoded.items() if key.endswith("input_ids")]
        longest = max(lengths, default=0)
        # Runs of tokens that carry the loss; the entangled model's SFT teaches all its replies.
        learned = {
            sum(b == IGNORE_INDEX != label for b, label in pairwise([IGNORE_INDEX, *labels]))
            for key, (labels,) in encoded.items()
            if key.endswith("labels")
        }
        said = (kind == "Supervised" and row.get("conversations")) or ()
        replies = sum(message["from"] == "gpt" for message in said) or 1
        text = "\n".join(one["content"] for one in aligned["_prompt"] + aligned["_response"])
        text += aligned["_system"] or ""
        fates = {
            "forged": any(token in text for token in special),
            "dropped": not longest,
            "cut": longest > cutoff,
            "mislabelled": learned != {replies},
            "kept": True,
        }
        fate = next(name for name, holds in fates.items() if holds)
        return {"id": row["id"], "tokens": longest, "fate": fate}

    return judge


def _summary(verdicts: Any) -> Row:
    """Of a frame with a row's id, tokens and fate."""
    lengths = verdicts["tokens"][verdicts["tokens"] > 0]
    quantiles = lengths.quantile(list(QUANTILES.values()), interpolation="higher").fillna(0)
    ids = verdicts.groupby("fate")["id"].agg(list)
    return {
        "rows": len(verdicts),
        "kept": len(ids.get("kept", [])),
        **{fate: ids.get(fate, []) for fate in FATES},
        "total_tokens": int(lengths.sum()),
        "tokens": dict(zip(QUANTILES, map(int, quantiles), strict=True)),
    }


def report(summaries: list[Row], model: str) -> Iterator[str]:
    """The lines one should see: a table, then the ids of what was lost."""
    import pandas as pd

    yield f"{model}: rows kept / dropped / cut, and length in tokens"
    there = pd.DataFrame([one for one in summaries if "absent" not in one])
    there[list(FATES)] = there[list(FATES)].map(len)
    table = there.drop(columns=["total_tokens", "tokens"]).join(pd.json_normalize(there["tokens"]))
    yield table.to_string(index=False, formatters=dict.fromkeys(table.columns[1:], "{:,}".format))
    for one in summaries:
        if "absent" in one:
            yield f"{one['set']} absent (not mined yet)"
        for fate in FATES:
            if ids := one.get(fate):
                shown = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
                yield f"{one['set']}: {len(ids)} {FATES[fate]}: {shown}"


@cli.command(
    examples="  python -m data_builders check\n"
    "  python -m data_builders check --model qwen2.5-7b --work demo"
)
def main(model: cli.Model = paths.EMBEDDED, work: cli.Work = Path()) -> int:
    """Every row of every set through LLaMA-Factory's converter, template and tokenizer.

    Fails (exit code 1) where a row is lost.
    """
    # The report says what is lost; LLaMA-Factory would print the whole text of each lost row.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    # Mend LLaMA-Factory as a training's process does when it starts; before it is imported.
    runpy.run_path(str(paths.IN_LLAMAFACTORY / "sitecustomize.py"))
    summaries, smoke = check(model, work), is_smoke(model, work)
    print("\n".join(report(summaries, model)))
    lossless = all(s["kept"] == s["rows"] for s in summaries if "absent" not in s)
    told = {"lossless": lossless, "smoke": smoke, "sets": summaries}
    files.write_json(work / f"data/check_{model}.json", told)
    failed = "FAILED: rows are lost or mislabelled (see above)"
    print(*[SMOKE] * smoke, "ok: nothing dropped, nothing cut" if lossless else failed, sep="\n")
    return 0 if lossless else 1
