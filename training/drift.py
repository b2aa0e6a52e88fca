"""How far a preference training moved the policy from its start, in the precision it is served in.

`serving compose --drift` goes through the gold answers of up to 200 validation turns (2 on a CPU)
and has ``drift.json`` written beside the adapter: KL divergence per token, and at how many tokens
another one is now the most probable. Any change at all, however small, turns some roundings over,
and that adds up: the start with its LoRA off by one unit in the last place shows how far that goes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esc import adapters, backbones, dialogue, files, paths, policy_server, step
from esc.backbones import Backbone
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.paths import Lineage
from esc.plan_and_speak import chat_and_gold
from esc.prompts import Message
from training import recipes

DRIFT = "drift.json"
BEYOND = 2.0
"""How many times the divergence by rounding alone counts as movement."""


def drift(work: Path, model: str, task: str, lineage: Lineage) -> Row:
    """What ``drift.json`` says; computed where it does not say it of these adapters yet."""
    backbone = backbones.get(model)
    start = adapters.folder(work, model, adapters.start(task, lineage))
    moved = adapters.folder(work, model, adapters.served_name(task, "dpo", lineage))
    where = "gpu" if backbone.settings["gpus"] else "cpu"
    turns = gold_turns(work, "validation", None)
    drawn = set(dialogue.order(turn.id for turn in turns)[: dialogue.DRIFT[where]])
    turns = [turn for turn in turns if turn.id in drawn]
    options: Row = {
        "start": adapters.fingerprint(start),
        "moved": adapters.fingerprint(moved),
        "turns": [turn.id for turn in turns],
    }
    path = work / paths.adapter(model, task, "dpo", lineage) / DRIFT
    facts: Row = files.read_json(path, default={})
    if facts.get("options") == options:
        return facts
    if where == "cpu" and (beside := policy_server.beside_training(work)):
        raise EscError(beside)
    chats = [chat_and_gold(task, turn, lineage.layout) for turn in turns]
    measured = measure(backbone, start, moved, chats)
    is_moved = measured["kl"] > BEYOND * measured["rounding"]["kl"] and measured["changed"] > 0
    # Trained by llamafactory-cli itself, it does not say so.
    trained = files.read_json(path.with_name("run.json"), default={})
    smoke = trained.get("smoke", step.is_smoke(model, work))
    facts = {"options": options, **measured, "moved": is_moved, "smoke": smoke}
    files.write_json(path, facts)
    return facts


def measure(
    backbone: Backbone,
    start: Path,
    moved: Path,
    chats: Sequence[tuple[Sequence[Message], str]],
) -> Row:
    """The movement from start to moved, the ``precision``, and as ``rounding`` that by it alone."""
    # Heavy, and needed for this one step only.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        backbone.location, dtype="auto", device_map="auto" if torch.cuda.is_available() else None
    )
    # Adapters in the base's precision too, as vLLM loads them.
    as_served = {"autocast_adapter_dtype": False}
    policy = PeftModel.from_pretrained(base, str(start), "start", **as_served)
    policy.load_adapter(str(moved), "moved", **as_served)
    policy.load_adapter(str(start), "rounded", **as_served)
    for name, weight in policy.named_parameters():
        if ".lora_B.rounded." in name:
            # To the next number of the precision.
            weight.data *= 1 + torch.finfo(base.dtype).eps
    policy.eval()

    def logits(name: str, prompt: list[int], answer: list[int]) -> Any:
        policy.set_adapter(name)
        ids = torch.tensor([[*prompt, *answer]], device=policy.device)
        # Before each answer token. In float32 equal policies diverge by a little less than 0.
        kept = len(answer) + 1
        return policy(input_ids=ids, logits_to_keep=kept).logits[0, -kept:-1].double()

    tokenizer, template = adapters.load(backbone.location, backbone.template)
    far, near = [], []
    for (system, *said), gold in tqdm(chats, desc="drift", unit=" turns"):
        messages = [{"role": one.role, "content": one.content} for one in said]
        messages.append({"role": "assistant", "content": gold})
        # Prompt and answer as the training has them.
        sample = template.encode_oneturn(tokenizer, messages, system=system.content)
        with torch.inference_mode():
            before = logits("start", *sample)
            far.append(divergence(before, logits("moved", *sample)))
            near.append(divergence(before, logits("rounded", *sample)))
    precision = str(base.dtype).removeprefix("torch.")
    return {"precision": precision, "rounding": movement(near)} | movement(far)


def divergence(start: Any, moved: Any) -> tuple[int, float, int]:
    """(tokens, summed KL(moved || start) in nats, tokens with another most probable one)."""
    after, before = moved.log_softmax(-1), start.log_softmax(-1)
    kl = float((after.exp() * (after - before)).sum())
    return len(after), kl, int((after.argmax(-1) != before.argmax(-1)).sum())


def movement(turns: Sequence[tuple[int, float, int]]) -> Row:
    """Nats and share of changed tokens, per token of the gold answers, ends of turns included."""
    tokens, kl, changed = map(sum, zip(*turns, strict=True))
    return {"turns": len(turns), "tokens": tokens, "kl": kl / tokens, "changed": changed / tokens}


def report(facts: Row, work: Path, model: str, task: str, lineage: Lineage) -> Iterator[str]:
    """What moved, beside what rounding does, and what to do where nothing did."""
    rounding = facts["rounding"]
    yield (
        f"drift       from {adapters.start(task, lineage)} in {facts['precision']}: KL "
        f"{facts['kl']:.2e} nats a token, another most probable token at {facts['changed']:.2%} of "
        f"{facts['tokens']:,} ({facts['turns']} validation turns)"
    )
    yield f"            rounding alone: KL {rounding['kl']:.2e}, {rounding['changed']:.2%}"
    if not facts["moved"]:
        faster = replace(lineage, variant="practical").variables
        again = paths.make(f"dpo-{task}", work=work, model=model, **faster)
        hint = f": {again} trains at a rate that does" if recipes.of(lineage).papers_rate else ""
        yield f"WARNING     the training moved the policy no further than rounding does{hint}"
    if facts["smoke"]:
        yield step.SMOKE
