"""What the steps of a plan would send, train and cost, before anything runs.

    make reproduce MODEL=qwen2.5-7b DRY_RUN=1

Estimates from the corpus's size, this kit's prompts, the paper's yields of pairs and a throughput
model; the assumptions stand beneath the table. Nothing is loaded and nobody asked, so that it runs
without GPU, network, tokenizer or corpus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas
import typer

from esc import backbones, cli, dialogue, files, paths
from esc.backbones import CUTOFF, Backbone
from esc.files import EscError
from esc.judging import NUMBER, RANDOM, REASON
from esc.llm import CHARACTERS_PER_TOKEN, Price
from esc.paths import ALL, EMBEDDED, KINDS, MIXES, Lineage, Quadrant
from esc.prompts import TASKS
from training import memory

# An A100 with 80 GB in bfloat16, dense, by its data sheet; the shares of it that training and the
# reading of prompts reach; FLOPs for a parameter and token (in training with a LoRA: forward 2,
# again for gradient checkpointing 2, backward through the frozen weights 2).
PEAK_FLOPS, TRAINING_SHARE, READING_SHARE, TRAINING_FLOPS, READING_FLOPS = 312e12, 0.35, 0.5, 6, 2
WRITING = 23e12
"""Parameters times answer tokens a second, with 256 requests in flight: 3,000 tokens of a 7.6B."""
SCALING = 0.9
"""Of a further training process, or GPU of a server."""
START_GPU, START_CPU = 180.0, 30.0
"""Seconds of a step before its first token: loading weights, starting a server."""
# Two cores without bfloat16 of their own (AVX2), the embedded model, in float32; most of what is
# read has been read before, by the same adapter.
CPU_TRAINING, CPU_READING, CPU_WRITING = 100.0, 900.0, 55.0
EPOCHS = {"sft": "3", "dpo": "1"}  # section 6.1
SAMPLES = {"sp": 1, "rg": 3, "vanilla": 1}
"""Of a turn, as mining's own default."""
YIELD = {"sp": 10651 / 14763, "rg": 6041 / 14763}
"""Pairs of a train turn, Qwen's in Table 1; the entangled model's as if they were independent."""
QUADRANTS = {
    Quadrant.NSNR: YIELD["sp"] * YIELD["rg"],
    Quadrant.NSPR: YIELD["sp"] * (1 - YIELD["rg"]),
    Quadrant.PSNR: (1 - YIELD["sp"]) * YIELD["rg"],
}
REFERENCE = 4 / 3
"""A preference training reads each side once more for its reference: 2 of 6 FLOPs more."""
VERDICT, CLASS = (2150, 130), (2050, 90)
SCORE = {NUMBER: (1600, 2), REASON: (1650, 90)}
"""(characters of the prompt besides what the generator is told, tokens of the answer) of a judge's
question: is it a pair; which error has a reply; and, by JUDGE_FORM, how good is it."""
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
COMMITTED = Path(__file__).parent / "esconv_volumes.json"

Volume = dict[str, float]
"""Of one split: ``dialogues``, ``turns``, characters of all prompts (one a turn, system prompts
included) and gold answers of a task (``sp_prompts``, ``sp_answers`` …), and ``conversations``,
those of all entangled conversations, which the prompts hold many times over."""


class Load(NamedTuple):
    """What a step takes."""

    trained: float = 0.0
    """Tokens, over all epochs, in units of a supervised one."""
    requests: float = 0.0
    """To this kit's own server, as the next two."""
    read: float = 0.0
    written: float = 0.0
    judged: float = 0.0
    """Requests to a judge elsewhere, whose time is not counted, as the next two."""
    judge_read: float = 0.0
    judge_written: float = 0.0

    def cost(self, price: Price) -> float:
        """What the judge takes for it."""
        return price.of(self.judge_read, self.judge_written)


def asked(requests: float, characters: float, written: float) -> Load:
    """Requests to this kit's own server, by the characters of their prompts and answer tokens."""
    return Load(requests=requests, read=characters / CHARACTERS_PER_TOKEN, written=written)


def judged(requests: float, characters: float, written: float) -> Load:
    """The same, to a judge elsewhere."""
    return Load(0, 0, 0, 0, requests, characters / CHARACTERS_PER_TOKEN, written)


def together(*loads: Load) -> Load:
    """What several steps take."""
    return Load(*map(sum, zip(*loads, strict=True)))


@dataclass(frozen=True)
class Forecast:
    """What is asked for, of which the estimates depend."""

    step: Annotated[list[str], typer.Option(envvar="STEPS", help="of plans.mk, in order")]
    system: Annotated[list[str], typer.Option(envvar="SYSTEMS", help="names of runs")]
    work: cli.Work = Path()
    model: cli.Model = EMBEDDED
    limit: cli.Limit = None
    samples: Annotated[int | None, typer.Option(envvar="SAMPLES", min=1)] = None
    nproc: Annotated[int | None, typer.Option(envvar="NPROC", min=1)] = None
    engine: Annotated[str | None, typer.Option(envvar="ENGINE")] = None
    judge: Annotated[str | None, typer.Option(envvar="JUDGE")] = None
    judge_n: Annotated[int | None, typer.Option(envvar="JUDGE_N", min=1)] = None
    judge_form: Annotated[str, typer.Option(envvar="JUDGE_FORM")] = NUMBER
    price: Annotated[str | None, typer.Option(envvar="PRICE", help="IN/OUT")] = None
    train_args: Annotated[str, typer.Option(envvar="TRAIN_ARGS")] = ""

    @cached_property
    def backbone(self) -> Backbone:
        """The one that is trained."""
        return backbones.get(self.model)

    @cached_property
    def volumes(self) -> dict[str, Volume]:
        """Every split, as much as is asked for: the release's, scaled to what is built here."""
        found: dict[str, Volume] = files.read_json(COMMITTED)
        manifest = self.work / paths.MANIFEST
        sets = files.read_json(manifest)["sets"] if manifest.is_file() else {}
        for name, one in found.items():
            rows = sets.get(paths.sft_file("vanilla", name), {"rows": one["dialogues"]})["rows"]
            share = min(self.limit or rows, rows) / one["dialogues"]
            found[name] = {what: count * share for what, count in one.items()}
        return found

    @property
    def own_judge(self) -> bool:
        """Whether evaluation's judge is the base model of this kit's server."""
        return self.model == EMBEDDED and not self.judge

    @property
    def asks(self) -> str:
        """The judge's name."""
        return self.judge or self.backbone.judge

    @property
    def money(self) -> Price | None:
        """What the judge takes a million tokens, where that is known."""
        return Price.parse(self.price) if self.price else PRICES.get(self.asks)

    @property
    def processes(self) -> int:
        """Of a training."""
        return self.nproc or max(self.backbone.settings["gpus"], 1)

    def training(self, name: str, default: str) -> float:
        """A number of TRAIN_ARGS; EscError where it is none."""
        text = dict(w.partition("=")[::2] for w in self.train_args.split()).get(name, default)
        try:
            return float(text)
        except ValueError:
            raise EscError(f"TRAIN_ARGS: {name}={text} is no number") from None

    def load(self, step: str) -> Load:
        """The estimate of one step; nothing for those that only read and write files."""
        target, _, variant = step.partition("@")
        kind, _, task = target.partition("-")
        if kind == "sft":
            return self._sft(task)
        if kind == "mine":
            return together(*map(self._mine, [task] if task else TASKS))
        if kind == "dpo":
            return self._dpo(task, variant)
        if kind == "predict":
            return together(*(self._predict(KINDS[name].system) for name in self.system))
        return self._evaluate() if kind == "eval" else Load()

    def seconds(self, load: Load) -> float:
        """On the backbone's own hardware: A100s, or two CPU cores."""
        if not self.backbone.settings["gpus"]:
            start, training, reading, writing = START_CPU, CPU_TRAINING, CPU_READING, CPU_WRITING
        else:
            start, size = START_GPU, self.backbone.parameters * 1e9
            served = 1 + SCALING * (self.backbone.serving_gpus - 1)
            training = PEAK_FLOPS * TRAINING_SHARE / (TRAINING_FLOPS * size)
            training *= 1 + SCALING * (self.processes - 1)
            reading = PEAK_FLOPS * READING_SHARE * served / (READING_FLOPS * size)
            writing = WRITING * served / size
        begins = bool(load.trained or load.requests)
        served_in = load.read / reading + load.written / writing
        return start * begins + load.trained / training + served_in

    def pairs(self, task: str, variant: str) -> float:
        """The pairs there are, else those of the paper's yield."""
        turns = self.volumes["train"]["turns"]
        mined = self.work / paths.preference_file(paths.preference_dataset(task, self.model))
        if mined.is_file() and variant not in MIXES:
            return float(sum(1 for _ in files.read_jsonl(mined)))
        if task == "vanilla":
            return turns * sum(QUADRANTS[one] for one in MIXES.get(variant, ALL))
        return turns * YIELD[task]

    def _sft(self, task: str) -> Load:
        one = self.volumes["train"]
        read, rows = one["conversations"], one["dialogues"]
        if task != "vanilla":
            read, rows = one[f"{task}_prompts"] + one[f"{task}_answers"], one["turns"]
        taken = min(rows, self.training("max_samples", "inf")) / max(rows, 1)
        epochs = self.training("num_train_epochs", EPOCHS["sft"])
        return Load(trained=epochs * taken * read / CHARACTERS_PER_TOKEN)

    def _mine(self, task: str) -> Load:
        one, samples = self.volumes["train"], self.samples or SAMPLES[task]
        requests = samples * one["turns"]
        written = samples * one[f"{task}_answers"] / CHARACTERS_PER_TOKEN
        sent = asked(requests, samples * one[f"{task}_prompts"], written)
        if task == "sp" or self.asks == RANDOM:
            return sent
        # The conversation with both replies, for every sample: at most, since equal ones drop out.
        seen = one["rg_prompts"] + one["rg_answers"] + one["turns"] * VERDICT[0]
        return together(sent, judged(requests, samples * seen, requests * VERDICT[1]))

    def _dpo(self, task: str, variant: str) -> Load:
        train, on = self.volumes["train"], "gpu" if self.backbone.settings["gpus"] else "cpu"
        side = (train[f"{task}_prompts"] + train[f"{task}_answers"]) / CHARACTERS_PER_TOKEN
        side /= max(train["turns"], 1)
        sides = 2 * min(self.pairs(task, variant), self.training("max_samples", "inf"))
        # How far it moved: three passes without a backward one, on some validation turns.
        drift = min(dialogue.DRIFT[on], self.volumes["validation"]["turns"]) * side
        epochs = self.training("num_train_epochs", EPOCHS["dpo"])
        return Load(trained=epochs * sides * side * REFERENCE + drift)

    def _predict(self, system: str) -> Load:
        one, kinds = self.volumes["test"], ANSWERS[system]
        read = sum(one[f"{kind}_prompts"] for kind in kinds)
        said = sum(one[f"{kind}_answers"] for kind in kinds) / CHARACTERS_PER_TOKEN
        # A later answer's prompt holds the earlier ones, but for the planner's.
        for place, kind in enumerate(kinds, start=1):
            read += one[f"{kind}_answers"] * (len(kinds) - place) * (kind != "sp")
        # The strategies' probabilities are one request more, over a prompt just read.
        return asked(one["turns"] * (len(kinds) + ("sp" in kinds)), read, said)

    def _evaluate(self) -> Load:
        if self.asks == RANDOM and not self.own_judge:
            return Load()
        one, systems = self.volumes["test"], len(self.system)
        again = 0 if self.own_judge else dialogue.REPEATED
        usual = dialogue.JUDGED_BY_EMBEDDED if self.own_judge else dialogue.JUDGED
        turns, pairs = (
            min(self.judge_n or usual, most) for most in (one["turns"], self.pairs("rg", ""))
        )
        scores = 4 * (systems * (turns + min(again, turns)) + 2 * pairs + min(again, pairs))
        classes = systems * one["turns"] * (self.asks != RANDOM)
        said = (one["rg_prompts"] + 2 * one["rg_answers"]) / max(one["turns"], 1)
        ask = asked if self.own_judge else judged
        counted = ((scores, *SCORE[self.judge_form]), (classes, *CLASS))
        return together(*(ask(n, n * (said + more), n * answer) for n, more, answer in counted))


def products(step: str, about: Forecast) -> list[Path]:
    """The files that are written last; a step is done where all are there."""
    target, _, variant = step.partition("@")
    kind, _, task = target.partition("-")
    model, lineage, runs = about.model, Lineage(variant or None), Path("runs") / about.model
    known: dict[str, list[Path | str]] = {
        "model": [Path(backbones.get(EMBEDDED).location) / "manifest.json"],
        "data": [paths.MANIFEST],
        "check-data": [f"data/check_{model}.json"],
        "stats": [paths.STATS],
        "sft": [paths.adapter(model, task, "sft") / "run.json"],
        "mine": [
            paths.preference_manifest(one, model, paths.PAPER)
            for one in [task] * bool(task) or TASKS
        ],
        "dpo": [paths.adapter(model, task, "dpo", lineage) / "drift.json"],
        "predict": [runs / name / "run.json" for name in about.system],
        "eval": [runs / "comparisons.json"],
        "report": [runs / "report.html"],
    }
    return [about.work / path for path in known[target if target in known else kind]]


@cli.command(examples="  make reproduce MODEL=qwen2.5-7b DRY_RUN=1", name="estimate")
def main(about: Forecast) -> None:
    """Tell what a plan's steps would send, train and cost, before anything runs."""
    rows, left, seconds, price = [], Load(), 0.0, about.money
    for step in about.step:
        done = all(path.is_file() for path in products(step, about))
        load = about.load(step)
        if not done:
            left, seconds = together(left, load), seconds + about.seconds(load)
        cost = f", ${load.cost(price):,.2f}" if load.judged and price else ""
        rows.append(
            {
                "step": step,
                "state": "done" if done else "to run",
                "requests": _short(load.requests),
                "tokens": _short(load.trained + load.read + load.written),
                "GPU memory": _memory(step, load, about),
                "time": _clock(about.seconds(load)),
                "judge": f"{_short(load.judged)} asked{cost}" if load.judged else "-",
            }
        )
    sides = ("left", "left", *["right"] * 5)
    print(pandas.DataFrame(rows).to_markdown(index=False, tablefmt="plain", colalign=sides))
    money = f", and ${left.cost(price):,.2f} for the judge" if price else ""
    print(f"\nto run: {_clock(seconds)}{money}")
    print("\n".join(_assumptions(about)))


def _memory(step: str, load: Load, about: Forecast) -> str:
    """Of each training process, or of each GPU of the server."""
    backbone = about.backbone
    if not backbone.settings["gpus"] or not (load.trained or load.requests):
        return "-"
    size = 2 * backbone.parameters * 1.25 / backbone.serving_gpus
    if load.trained:
        engine = about.engine or backbone.engine
        size = memory.gigabytes(backbone, engine, about.processes, CUTOFF, step[:3])
    return f"{size:,.0f} GB"


def _short(number: float) -> str:
    unit, size = ("M", 1e6) if number >= 1e6 else ("k", 1e3) if number >= 1e3 else ("", 1)
    return f"{number / size:,.{bool(unit):d}f}{unit}" if number else "-"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if seconds else "-"


def _assumptions(about: Forecast) -> Iterator[str]:
    train, test = (about.volumes[split]["turns"] for split in ("train", "test"))
    yield (
        f"corpus     statistics of ESConv, scaled to what is built here: {train:,.0f} train and "
        f"{test:,.0f} test turns; {CHARACTERS_PER_TOKEN} characters a token"
    )
    yield "pairs      those mined here, else as many a turn as the paper has of Qwen (Table 1)"
    if about.backbone.settings["gpus"]:
        yield (
            f"hardware   A100 80 GB: training at {TRAINING_SHARE:.0%} of the peak on "
            f"{about.processes} processes, one server of {about.backbone.serving_gpus}; each step "
            f"{START_GPU:.0f} s besides"
        )
        yield f"memory     training at {CUTOFF:,} tokens; a server's weights and a quarter more"
    else:
        yield f"hardware   two CPU cores, the embedded model; each step {START_CPU:.0f} s besides"
    if about.asks == RANDOM:
        scored = "in mining, the base model in evaluation" if about.own_judge else "throughout"
        yield f"judge      random draws {scored}: SMOKE, no result"
    else:
        price = about.money
        cost = f"${price.prompt:g} and ${price.completion:g} a million" if price else "set PRICE"
        yield f"judge      {about.asks}, {cost} tokens; its time is not in the sum"
    yield "An estimate; DRY_RUN=1 of one step counts what is really left of it."
