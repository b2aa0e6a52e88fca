"""How far a preference training moved the policy from its start, in the precision it is served in.

    python -m training drift --model smollm2-135m --task sp --limit 2

Reads the composed adapter and the start's, goes through the gold answers of up to 200 validation
turns (2 on a CPU), and writes ``drift.json`` beside the adapter: KL divergence per token, and at
how many tokens another one is now the most probable. A rate as small as those of Table 7 can leave
a bfloat16 model as it was; then it says so. Both policies run as vLLM runs them, a LoRA on a base
in the base's own precision. There any change at all, however small, turns some roundings over, and
that adds up: the start with its LoRA off by one unit in the last place shows how far rounding alone
goes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esc import adapters, backbones, cli, dialogue, files, paths, policy_server
from esc.dialogue import GoldTurn, gold_turns
from esc.files import Row
from esc.paths import EMBEDDED, Lineage
from esc.plan_and_speak import chat_and_gold
from esc.prompts import TASKS
from esc.step import is_smoke
from training.recipes import of as loss_of

DRIFT = "drift.json"
BEYOND = 2.0
"""How many times the divergence by rounding alone counts as movement."""


@dataclass(frozen=True, slots=True)
class Movement:
    """How one policy differs from another on the same answers."""

    turns: int
    tokens: int
    """Of the gold answers, the end of the turn included."""
    kl: float
    """Nats a token, KL(moved || start), over the whole vocabulary."""
    changed: float
    """Share of tokens at which another one is the most probable."""


def drift(work: Path, model: str, task: str, lineage: Lineage, limit: int | None) -> Row:
    """What ``drift.json`` says; computed where it does not say it of these adapters yet.

    Raises EscError where an adapter is missing or not composed.
    """
    start = adapters.folder(work, model, adapters.start(task, lineage))
    moved = adapters.folder(work, model, adapters.served_name(task, "dpo", lineage))
    where = "gpu" if backbones.get(model).settings["gpus"] else "cpu"
    turns = _drawn(gold_turns(work, "validation", None), limit, dialogue.DRIFT[where])
    options: Row = {
        "start": adapters.fingerprint(start),
        "moved": adapters.fingerprint(moved),
        "turns": [turn.id for turn in turns],
    }
    path = work / paths.adapter(model, task, "dpo", lineage) / DRIFT
    if path.is_file():
        facts: Row = files.read_json(path)
        if facts["options"] == options:
            return facts
    if where == "cpu":
        policy_server.refuse_beside_training()
    precision, measured, rounding = measure(model, task, start, moved, turns)
    trained = path.with_name("run.json")
    facts = {
        "options": options,
        "precision": precision,
        **asdict(measured),
        "rounding": asdict(rounding),
        "moved": measured.kl > BEYOND * rounding.kl and measured.changed > 0,
        # Trained by llamafactory-cli itself, it does not say so.
        "smoke": files.read_json(trained)["smoke"] if trained.is_file() else is_smoke(model, work),
    }
    files.write_json(path, facts)
    return facts


def _drawn(turns: list[GoldTurn], limit: int | None, most: int) -> list[GoldTurn]:
    """Up to ``most`` turns of up to ``limit`` dialogues."""
    dialogues = set(dialogue.order({_dialogue(turn) for turn in turns})[:limit])
    some = [turn for turn in turns if _dialogue(turn) in dialogues]
    chosen = set(dialogue.order(turn.id for turn in some)[:most])
    return [turn for turn in some if turn.id in chosen]


def _dialogue(turn: GoldTurn) -> str:
    return turn.id.rpartition("-")[0]


def measure(
    model: str, task: str, start: Path, moved: Path, turns: Sequence[GoldTurn]
) -> tuple[str, Movement, Movement]:
    """(precision, movement from start to moved, movement by rounding alone)."""
    # Heavy, and needed for this one step only.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    backbone = backbones.get(model)
    base = AutoModelForCausalLM.from_pretrained(
        backbone.location, dtype="auto", device_map="auto" if torch.cuda.is_available() else None
    )
    # Adapters in the base's precision too, as vLLM loads them.
    as_served = {"autocast_adapter_dtype": False}
    policy = PeftModel.from_pretrained(base, str(start), "start", **as_served)
    policy.load_adapter(str(moved), "moved", **as_served)
    policy.load_adapter(str(start), "rounded", **as_served)
    # To the next number of the precision.
    _scale(policy, "rounded", 1 + torch.finfo(base.dtype).eps)
    policy.eval()
    samples = list(_encoded(backbone, task, turns))
    far = _Sum()
    near = _Sum()
    with torch.inference_mode():
        for prompt, answer in tqdm(samples, desc="drift", unit=" turns"):
            before = _logits(policy, "start", prompt, answer)
            far.add(before, _logits(policy, "moved", prompt, answer))
            near.add(before, _logits(policy, "rounded", prompt, answer))
    precision = str(base.dtype).removeprefix("torch.")
    return precision, far.movement(), near.movement()


def _scale(policy: Any, name: str, factor: float) -> None:
    """Scale what an adapter adds."""
    for module in policy.modules():
        if name in getattr(module, "lora_B", {}):
            module.lora_B[name].weight.data *= factor


def _encoded(
    backbone: backbones.Backbone, task: str, turns: Sequence[GoldTurn]
) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of every turn, as the training has them."""
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    for turn in turns:
        (system, *said), gold = chat_and_gold(task, turn)
        messages = [{"role": one.role, "content": one.content} for one in said]
        messages.append({"role": "assistant", "content": gold})
        yield template.encode_oneturn(tokenizer, messages, system=system.content)


def _logits(policy: Any, name: str, prompt: list[int], answer: list[int]) -> Any:
    """Logits before each answer token, ``len(answer)`` x vocabulary.

    As doubles: in float32 the divergence of equal policies comes out a little below 0.
    """
    import torch

    policy.set_adapter(name)
    ids = torch.tensor([[*prompt, *answer]], device=policy.device)
    kept = len(answer) + 1
    return policy(input_ids=ids, logits_to_keep=kept).logits[0, -kept:-1].double()


class _Sum:
    """Movement, added up over answers."""

    def __init__(self) -> None:
        self._turns = self._tokens = self._changed = 0
        self._kl = 0.0

    def add(self, start: Any, moved: Any) -> None:
        """Count one answer's logits, tokens x vocabulary each."""
        after, before = moved.log_softmax(-1), start.log_softmax(-1)
        self._turns += 1
        self._tokens += len(after)
        self._kl += float((after.exp() * (after - before)).sum())
        self._changed += int((after.argmax(-1) != before.argmax(-1)).sum())

    def movement(self) -> Movement:
        """Per token."""
        tokens = self._tokens
        return Movement(self._turns, tokens, self._kl / tokens, self._changed / tokens)


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
        again = paths.make(f"dpo-{task}", work=work, model=model, VARIANT="practical")
        hint = f": {again} trains at a rate that does" if loss_of(lineage).papers_rate else ""
        yield f"WARNING     the training moved the policy no further than rounding does{hint}"
    if facts["smoke"]:
        yield "SMOKE       embedded model, sample corpus or random judge: no result"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m training drift",
        description=__doc__,
        examples="  python -m training drift --task sp --limit 2\n"
        "  python -m training drift --model qwen2.5-7b --task rg --variant practical",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--variant", type=cli.optional, help="of the preference training")
    parser.add_argument("--round", type=cli.optional_count, help="default: 1")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument("--limit", type=cli.optional_count, help="of so many dialogues at most")
    given = parser.parse_args(argv)
    lineage = Lineage(given.variant, given.round or 1).checked(given.task)
    facts = drift(given.work, given.model, given.task, lineage, given.limit)
    print("\n".join(report(facts, given.work, given.model, given.task, lineage)))
