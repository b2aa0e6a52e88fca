"""The turn layout against the dialogue layout: what each learns from the same dialogues, how soon.

    python -m experiments layout --esconv path/to/ESConv.json

The embedded model learns 12 train dialogues in either layout, about 28 supervised turns a step, at
a rate at which the turn layout beats the base by 0.1 nats a reply token, which is found first. Held
out are 6 validation dialogues. Writes ``layout.json`` to WORK and prints it as a table; killed, the
same command goes on.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from data_builders import build, source
from esc import adapters, backbones, cli, dialogue, files, paths, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.paths import DIALOGUE, EMBEDDED, TURN
from esc.plan_and_speak import chat_and_gold
from training.recipes import Training
from training.train import train

TRAINED, HELD_OUT, GAIN = 12, 6, 0.1
RATES = (5e-4, 1e-3, 2e-3)
STEP = {TURN: 28, DIALOGUE: 2}
"""Rows of a step, which hold about as many supervised turns."""
RUNS = ((TURN, 1), (DIALOGUE, 1), (DIALOGUE, 3))
"""(layout, epochs)."""
_FORMAT = 1


def samples(turns: Sequence[GoldTurn], task: str, layout: str) -> Iterator[tuple[str, list[Any]]]:
    """(system prompt, messages with the answers) of what a forward pass of a layout holds."""
    whole = [[one] for one in turns]
    if layout == DIALOGUE:
        of = groupby(turns, key=lambda turn: turn.id.partition("-")[0])
        whole = [list(one) for _, one in of]
    for last in (one[-1] for one in whole):
        (system, *said), gold = chat_and_gold(task, last, layout)
        told = [message.wire() for message in said]
        yield system.content, [*told, {"role": "assistant", "content": gold}]


def held_out(adapter: Path | None, turns: Sequence[GoldTurn], task: str, layout: str) -> Row:
    """``nats`` a token of the answers alone, their number, and the tokens that were computed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    backbone = backbones.get(EMBEDDED)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    model = AutoModelForCausalLM.from_pretrained(backbone.location, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    nats, answers, computed = 0.0, 0, 0
    for system, messages in samples(turns, task, layout):
        ids: list[int] = []
        learned: list[bool] = []
        for prompt, answer in template.encode_multiturn(tokenizer, messages, system):
            ids += [*prompt, *answer]
            # In the turn layout the replies of the history are none of its own.
            learned = [one and layout == DIALOGUE for one in learned]
            learned += [False] * len(prompt) + [True] * len(answer)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        told = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        mask = torch.tensor(learned[1:])
        nats -= float(told[mask].sum())
        answers, computed = answers + int(mask.sum()), computed + len(ids)
    return {"nats": nats / answers, "answer_tokens": answers, "tokens": computed}


def _once(path: Path, made_with: Row, make: Any) -> Row:
    """What a JSON file says, made where it is not there with these options yet."""
    found = files.read_json(path, default={})
    if found.get("made_with") != made_with:
        found = {"made_with": made_with} | make()
        files.write_json(path, found)
    return found


def _training(work: Path, task: str, layout: str, epochs: int, rate: float, seed: int) -> Training:
    given = f"gradient_accumulation_steps={STEP[layout]} num_train_epochs={epochs}.0 "
    given += f"learning_rate={rate} warmup_steps=0 seed={seed} save_strategy=no"
    made: Any = Training
    of = {"work": work, "task": task, "layout": layout, "processes": 1}
    training: Training = made(**of, overrides=given.split())
    return training


def learned(root: Path, task: str, layout: str, epochs: int, rate: float, seed: int) -> Row:
    """Of one training: held-out nats and what it took, in tokens, steps and seconds."""
    work = root / f"{layout}_{epochs}_{rate:g}_{seed}"
    kept = source.locate(None, root / "base").files
    build.build(str(kept[0] if len(kept) == 1 else kept[0].parent), work, _options())
    training = _training(work, task, layout, epochs, rate, seed)
    facts = train(training, force=False)
    assert facts is not None
    turns = gold_turns(work, "train", None)
    seen = sum(len(ids) for ids in _lengths(turns, task, layout))
    of: Row = {"task": task, "layout": layout, "adapter": adapters.fingerprint(training.output)}
    path = work / f"held_out_{task}.json"
    made = _once(path, of, lambda: held_out(training.output, _held_out(work), task, layout))
    return made | {"seconds": facts["seconds"], "steps": facts["steps"], "trained": epochs * seen}


def _lengths(turns: Sequence[GoldTurn], task: str, layout: str) -> Iterator[list[int]]:
    backbone = backbones.get(EMBEDDED)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    for system, messages in samples(turns, task, layout):
        pairs = template.encode_multiturn(tokenizer, messages, system)
        yield [one for prompt, answer in pairs for one in (*prompt, *answer)]


def _options() -> build.BuildOptions:
    return build.BuildOptions(limit=TRAINED)


def _held_out(work: Path) -> list[GoldTurn]:
    turns = gold_turns(work, "validation", None)
    drawn = dialogue.order({turn.id.partition("-")[0] for turn in turns})[:HELD_OUT]
    return [turn for turn in turns if turn.id.partition("-")[0] in drawn]


def rows(root: Path, seed: int) -> Iterator[Row]:
    """Every row of the table; EscError where no rate moves the turn layout far enough."""
    base, built = root / "base", step.manifest(root / "base")
    held: dict[tuple[str, str], Row] = {}
    for task in ("rg", "sp"):
        for layout in paths.LAYOUTS:
            of: Row = {"task": task, "layout": layout, "format": _FORMAT}
            of |= {"turns": built.sets[paths.sft_file(task, "validation", layout)].sha256}
            path = base / f"held_out_{task}_{layout}.json"
            told = _once(path, of, lambda t=task, o=layout: held_out(None, _held_out(base), t, o))
            held[task, layout] = told
            yield {"task": task, "model": f"base, {layout}", "nats": told["nats"], "gain": 0.0}
    for rate in RATES:
        first = learned(root, "rg", TURN, 1, rate, seed)
        if held["rg", TURN]["nats"] - first["nats"] >= GAIN:
            break
    else:
        raise EscError(f"no rate of {RATES} beats the base by {GAIN} nats in the turn layout")
    for task in ("rg", "sp"):
        for layout, epochs in RUNS:
            told = learned(root, task, layout, epochs, rate, seed)
            gain = held[task, layout]["nats"] - told["nats"]
            name = f"{layout}, {epochs} epoch{'s' * (epochs > 1)}, rate {rate:g}"
            about = {"tokens": told["trained"], "steps": told["steps"], "seconds": told["seconds"]}
            yield {"task": task, "model": name, "nats": told["nats"], "gain": gain} | about


@cli.command(
    examples="  python -m experiments layout --esconv path/to/ESConv.json --work layout\n"
    "  python -m experiments layout --work layout --seed 43"
)
def main(
    esconv: build.Esconv = None,
    work: Annotated[Path, typer.Option(envvar="WORK", help="root of all it makes")] = Path(
        "layout"
    ),
    seed: Annotated[int, typer.Option(min=0, help="of the trainings")] = 42,
) -> None:
    """The turn layout against the dialogue layout: gain over the base, tokens, seconds.

    The embedded model on two cores takes about an hour; killed, the same command goes on.
    """
    import pandas as pd

    build.build(esconv, work / "base", _options())
    found = list(rows(work, seed))
    smoke = step.manifest(work / "base").smoke
    files.write_json(work / "layout.json", {"rows": found, "seed": seed, "smoke": smoke})
    print(
        pd.DataFrame(found).to_markdown(
            index=False, floatfmt=(".0f", ".0f", ".3f", ".3f", ",.0f", ".0f", ".0f")
        )
    )
    print(f"written     {work / 'layout.json'}")
    print(step.SMOKE)
