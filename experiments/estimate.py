"""What every step of a plan would send, train and cost, before anything runs.

Estimates from the corpus's size, this kit's prompts, the paper's yields of pairs and a throughput
model: each stands with its assumption. Nothing is loaded and nobody asked, so that it runs without
GPU, network, tokenizer or corpus.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from esc import cli, dialogue, files, paths
from esc.backbones import Backbone
from esc.dialogue import REPEATED, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import NUMBER, RANDOM, REASON
from esc.llm import CHARACTERS_PER_TOKEN, Price
from esc.paths import ALL, MIXES, Quadrant
from esc.plan_and_speak import chat_and_gold
from esc.prompts import TASKS
from experiments import variables
from experiments.plan import Step

PEAK_FLOPS = 312e12
"""Of an A100 with 80 GB in bfloat16, dense, by its data sheet."""
TRAINING_SHARE, READING_SHARE = 0.35, 0.5
"""Of the peak that training and the reading of prompts reach."""
TRAINING_FLOPS = 6
"""For a parameter and token with a LoRA: forward 2, again for gradient checkpointing 2, backward
through the frozen weights 2."""
READING_FLOPS = 2
WRITING = 23e12
"""Parameters times answer tokens a second, with 256 requests in flight: 3,000 tokens of a 7.6B."""
SCALING = 0.9
"""Of a further training process, or GPU of a server."""
START_GPU, START_CPU = 180.0, 30.0
"""Seconds of a step before its first token: loading weights, starting a server."""
# Two cores without bfloat16 of their own (AVX2), the embedded model, in float32; most of what is
# read has been read before, by the same adapter.
CPU_TRAINING, CPU_READING, CPU_WRITING = 100.0, 900.0, 55.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second."""

    training: float
    """Of all processes together; each token with its forward and backward pass."""
    reading: float
    """Of prompts, by one server."""
    writing: float
    """Of answers, by one server with enough requests in flight."""
    start: float
    """Seconds of each step besides."""
    told: str
    """Where they come from."""

    def trained(self, tokens: float) -> float:
        """Seconds of a training on so many tokens, all epochs together."""
        return self.start + tokens / self.training

    def asked(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Seconds of requests with so many tokens, nothing of them cached."""
        return self.start + prompt_tokens / self.reading + answer_tokens / self.writing


def rates(backbone: Backbone, processes: int) -> Rates:
    """The rates of a backbone on its own hardware: GPUs, or two CPU cores."""
    if not backbone.settings["gpus"]:
        told = "two CPU cores, measured with the embedded model in float32"
        return Rates(CPU_TRAINING, CPU_READING, CPU_WRITING, START_CPU, told)
    size = backbone.parameters * 1e9
    one = PEAK_FLOPS * TRAINING_SHARE / (TRAINING_FLOPS * size)
    served = 1 + SCALING * (backbone.serving_gpus - 1)
    writing = WRITING * served / size
    server = "one server"
    if backbone.serving_gpus > 1:
        server += f" of {backbone.serving_gpus} GPUs"
    told = (
        f"A100 80 GB: {PEAK_FLOPS / 1e12:.0f} TFLOP/s, of which training reaches "
        f"{TRAINING_SHARE:.0%} on {processes} processes and reading prompts {READING_SHARE:.0%} on "
        f"{server}; answers {writing:,.0f} tokens a second"
    )
    return Rates(
        one * (1 + SCALING * (processes - 1)),
        PEAK_FLOPS * READING_SHARE * served / (READING_FLOPS * size),
        writing,
        START_GPU,
        told,
    )


COMMITTED = Path(__file__).parent / "esconv_volumes.json"


@dataclass(frozen=True, slots=True)
class Volume:
    """One split of a corpus."""

    dialogues: int
    turns: int
    prompts: dict[str, int]
    """Task to characters of all prompts, one for each turn, the system prompts included."""
    answers: dict[str, int]
    """Task to characters of all gold answers."""
    conversations: int
    """Characters of all entangled conversations, which `prompts` holds many times over."""

    def part(self, dialogues: int | None) -> "Volume":
        """That of so many of its dialogues, of the mean length."""
        if dialogues is None or dialogues >= self.dialogues:
            return self
        share = dialogues / self.dialogues
        return Volume(
            dialogues,
            round(self.turns * share),
            {task: round(count * share) for task, count in self.prompts.items()},
            {task: round(count * share) for task, count in self.answers.items()},
            round(self.conversations * share),
        )


def measured(work: Path, split: str, limit: int | None = None) -> Volume:
    """Of a built split; EscError where it is not built."""
    prompts = dict.fromkeys(TASKS, 0)
    answers = dict.fromkeys(TASKS, 0)
    conversations: dict[str, int] = {}
    turns = gold_turns(work, split, limit)
    for turn in turns:
        for task in TASKS:
            chat, gold = chat_and_gold(task, turn)
            size = sum(len(message.content) for message in chat)
            prompts[task] += size
            answers[task] += len(gold)
            if task == "vanilla":
                # The last turn's prompt and answer are the whole conversation.
                conversations[turn.id.rpartition("-")[0]] = size + len(gold)
    return Volume(len(conversations), len(turns), prompts, answers, sum(conversations.values()))


def committed(split: str) -> Volume:
    """Of a split of the ESConv release."""
    return Volume(**files.read_json(COMMITTED)[split])


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a corpus before anything is built from it."""

    volumes: Mapping[str, Volume]
    """Of every split."""
    told: str
    """Where they are known from."""
    as_asked: bool
    """Whether the built sets are the very ones asked for, and so the pairs that are mined."""


def known(work: Path, given: Mapping[str, str]) -> Known:
    """What the built sets say, or those of the release where they are not what make is given."""
    why = "no sets are built here"
    if paths.data_manifest(work).is_file():
        manifest = files.read_json(paths.data_manifest(work))
        limit = manifest["options"]["LIMIT"]
        others = difference(manifest, given)
        if others is None:
            found = {split: measured(work, split) for split in paths.SPLITS}
            return Known(found, "the built sets", limit == variables.count(given, "LIMIT"))
        why = f"the sets built here are of {others}"
    found = {split: committed(split) for split in paths.SPLITS}
    return Known(found, f"committed statistics of the ESConv release, since {why}", False)


def difference(manifest: Row, given: Mapping[str, str]) -> str | None:
    """The option of built sets that is not make's, such as ``LIMIT=2``; None where all agree.

    A part can be reckoned from whole sets: of them, LIMIT may be any.
    """
    corpus, built = manifest["corpus"], manifest["options"]
    default = "paper" if corpus["kind"] == "esconv" else "seed:42"
    asked = given.get("ESCONV")
    if asked and corpus["origin"] not in (asked, Path(asked).resolve().name):
        return f"ESCONV={corpus['origin']}"
    if built["LIMIT"] not in (None, variables.count(given, "LIMIT")):
        return f"LIMIT={built['LIMIT']}"
    if built["SPLIT"] != given.get("SPLIT", default):
        return f"SPLIT={built['SPLIT']}"
    if built["CONSECUTIVE"] != given.get("CONSECUTIVE", "separate"):
        return f"CONSECUTIVE={built['CONSECUTIVE']}"
    return None


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    manifest = files.read_json(paths.data_manifest(given.work), made_by="make data")
    if manifest["corpus"]["kind"] != "esconv" or manifest["options"]["LIMIT"] is not None:
        raise EscError(f"{given.work} does not hold the whole ESConv release; build that first")
    found = {split: asdict(measured(given.work, split)) for split in paths.SPLITS}
    files.write_json(COMMITTED, found)
    print(f"written {COMMITTED.name}: {sum(one['turns'] for one in found.values()):,} turns")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m experiments volumes",
        description=__doc__,
        examples="  python -m experiments volumes --work esconv",
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of the built release")
    return parser


EPOCHS = {"sft": 3.0, "dpo": 1.0}  # section 6.1
SAMPLES = {"sp": 1, "rg": 3, "vanilla": 1}
"""Of a turn, as mining's own default."""
YIELD = {"sp": 10651 / 14763, "rg": 6041 / 14763}
"""Pairs of a train turn, Qwen's in Table 1."""
QUADRANTS = {
    Quadrant.NSNR: YIELD["sp"] * YIELD["rg"],
    Quadrant.NSPR: YIELD["sp"] * (1 - YIELD["rg"]),
    Quadrant.PSNR: (1 - YIELD["sp"]) * YIELD["rg"],
}
"""Pairs of a train turn for the entangled model, as if its two kinds of error were independent."""
REFERENCE = 4 / 3
"""A preference training reads each side once more for its reference: 2 of 6 FLOPs more."""
VERDICT, CLASS = (2150, 130), (2050, 90)
SCORE = {NUMBER: (1600, 2), REASON: (1650, 90)}
"""(characters of the prompt besides what the generator is told, tokens of the answer) of a judge's
question: is it a pair; which error has a reply; and, by JUDGE_FORM, how good is it."""
DIMENSIONS = 4
ANSWERS = {
    "vanilla": ("vanilla",),
    "direct-refine": ("vanilla", "vanilla"),
    "self-refine": ("vanilla", "rg", "vanilla"),
    "emotional-cot": ("rg", "vanilla"),
    "decoupled": ("sp", "rg"),
    "decoupled-gold": ("rg",),
}
"""System to the kinds of answer it asks for, one after the other."""
PRICES = {"gpt-4.1-mini-2025-04-14": Price(0.40, 1.60)}
"""Dollars a million tokens, the list price in November 2025; PRICE overrides it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one step takes."""

    trained: float = 0.0
    """Tokens of a training, over all epochs, in units of a supervised one."""
    requests: int = 0
    """To this kit's own server."""
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    judged: int = 0
    """Questions to a judge."""
    judge_prompt_tokens: float = 0.0
    judge_answer_tokens: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """On given hardware; a judge elsewhere takes none of it."""
        return (rates.trained(self.trained) if self.trained else 0.0) + (
            rates.asked(self.prompt_tokens, self.answer_tokens) if self.requests else 0.0
        )

    def cost(self, price: Price) -> float:
        """What the judge takes, in the price's money."""
        return price.of(self.judge_prompt_tokens, self.judge_answer_tokens)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the estimates depend on besides the step."""

    volumes: Mapping[str, Volume]
    limit: int | None
    judge: str
    judged: int
    """Turns that a judge scores, of each system."""
    samples: int | None = None
    own_judge: bool = False
    """Whether evaluation's judge is the base model of this kit's server."""
    systems: int = 0
    """Whose predictions are evaluated."""
    pairs: dict[str, int] = field(default_factory=dict)
    """Task to mined pairs, where they are mined already."""
    drift_turns: int = dialogue.DRIFT["gpu"]
    """Validation turns by which a preference training is measured."""
    epochs: float | None = None
    """Of every training, or None for the paper's."""
    rows: int | None = None
    """That a training takes at most, or None for all."""
    form: str = NUMBER
    """As which a judge is asked a score."""

    @property
    def train(self) -> Volume:
        """The split that is trained on and mined."""
        return self.volumes["train"].part(self.limit)

    @property
    def test(self) -> Volume:
        """The split that is predicted."""
        return self.volumes["test"].part(self.limit)


def load(step: Step, asked: Asked) -> Load:
    """The estimate of one step; nothing for those that only read and write files."""
    kind, _, task = step.target.partition("-")
    if kind == "sft":
        return _sft(task, asked)
    if kind == "mine":
        return _mine(task, asked)
    if kind == "dpo":
        return _dpo(task, step.variables.get("VARIANT"), asked)
    if kind == "predict":
        return _predict(step.variables["SYSTEM"], asked)
    return _evaluate(asked) if kind == "eval" else Load()


def _tokens(characters: float) -> float:
    return characters / CHARACTERS_PER_TOKEN


def _sft(task: str, asked: Asked) -> Load:
    one = asked.train
    read = one.conversations if task == "vanilla" else one.prompts[task] + one.answers[task]
    there = one.dialogues if task == "vanilla" else one.turns
    taken = _taken(there, asked) / max(there, 1)
    return Load(trained=(asked.epochs or EPOCHS["sft"]) * taken * _tokens(read))


def _taken(rows: float, asked: Asked) -> float:
    return rows if asked.rows is None else min(rows, asked.rows)


def _mine(task: str, asked: Asked) -> Load:
    one, samples = asked.train, asked.samples or SAMPLES[task]
    requests = samples * one.turns
    sent = Load(
        requests=requests,
        prompt_tokens=samples * _tokens(one.prompts[task]),
        answer_tokens=samples * _tokens(one.answers[task]),
    )
    if task == "sp" or asked.judge == RANDOM:
        return sent
    # The conversation with both replies, for every sample: at most, since equal ones drop out.
    verdict, answer = VERDICT
    read = one.prompts["rg"] + one.answers["rg"] + one.turns * verdict
    return Load(
        requests=sent.requests,
        prompt_tokens=sent.prompt_tokens,
        answer_tokens=sent.answer_tokens,
        judged=requests,
        judge_prompt_tokens=samples * _tokens(read),
        judge_answer_tokens=requests * answer,
    )


def expected_pairs(task: str, variant: str | None, asked: Asked) -> float:
    """The pairs there are, else those of the paper's yield."""
    if task in asked.pairs and variant not in MIXES:
        return asked.pairs[task]
    if task == "vanilla":
        mix = MIXES.get(variant or "", ALL)
        return asked.train.turns * sum(QUADRANTS[one] for one in mix)
    return asked.train.turns * YIELD[task]


def _dpo(task: str, variant: str | None, asked: Asked) -> Load:
    one = asked.train
    side = (one.prompts[task] + one.answers[task]) / max(one.turns, 1)
    tokens = _taken(expected_pairs(task, variant, asked), asked) * 2 * _tokens(side)
    valid = asked.volumes["validation"].part(asked.limit)
    turns = min(asked.drift_turns, valid.turns)
    # Three passes without a backward one: before, after, and by rounding alone.
    drift = turns * _tokens(side) * 3 / 3
    return Load(trained=(asked.epochs or EPOCHS["dpo"]) * tokens * REFERENCE + drift)


def _predict(system: str, asked: Asked) -> Load:
    one, kinds = asked.test, ANSWERS[system]
    written = sum(one.answers[kind] for kind in kinds)
    # A later answer's prompt holds the earlier ones, but for the planner's.
    before = sum(
        one.answers[kind] * (len(kinds) - place)
        for place, kind in enumerate(kinds, start=1)
        if kind != "sp"
    )
    read = sum(one.prompts[kind] for kind in kinds) + before
    # The eight strategies' probabilities are one request more, over a prompt just read.
    extra = one.turns if "sp" in kinds else 0
    return Load(
        requests=one.turns * len(kinds) + extra,
        prompt_tokens=_tokens(read),
        answer_tokens=_tokens(written),
    )


def _evaluate(asked: Asked) -> Load:
    one = asked.test
    said = (one.prompts["rg"] + 2 * one.answers["rg"]) / max(one.turns, 1)
    turns, again = min(asked.judged, one.turns), 0 if asked.own_judge else REPEATED
    scores = asked.systems * DIMENSIONS * (turns + min(again, turns))
    pairs = min(asked.judged, round(expected_pairs("rg", None, asked)))
    scores += 2 * DIMENSIONS * pairs + DIMENSIONS * min(again, pairs)
    if asked.judge == RANDOM and not asked.own_judge:
        return Load()
    classes = 0 if asked.judge == RANDOM else asked.systems * one.turns
    prompt, answer = SCORE[asked.form]
    asked_scores = (scores, _tokens(said + prompt), answer)
    asked_classes = (classes, _tokens(said + CLASS[0]), CLASS[1])
    both = (asked_scores, asked_classes)
    if asked.own_judge:
        return Load(
            requests=scores + classes,
            prompt_tokens=sum(count * prompt for count, prompt, _ in both),
            answer_tokens=sum(count * answer for count, _, answer in both),
        )
    return Load(
        judged=scores + classes,
        judge_prompt_tokens=sum(count * prompt for count, prompt, _ in both),
        judge_answer_tokens=sum(count * answer for count, _, answer in both),
    )
