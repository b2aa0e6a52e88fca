"""What the steps of a plan would send, train and cost, before anything runs.

    make reproduce MODEL=qwen2.5-7b DRY_RUN=1

Estimates from the corpus's size, this kit's prompts, the paper's yields of pairs and a throughput
model; the assumptions stand beneath the table. Nothing is loaded and nobody asked, so that it runs
without GPU, network, tokenizer or corpus.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas
import typer
import yaml

from esc import backbones, cli, dialogue, files, paths
from esc.backbones import CUTOFF, Backbone
from esc.files import EscError
from esc.judging import NUMBER, RANDOM
from esc.llm import CHARACTERS_PER_TOKEN, Price
from esc.paths import ALL, CONVERSE, EMBEDDED, KINDS, MIXES, Lineage, Quadrant
from esc.prompts import TASKS
from eval.predict import system_of
from training import memory
from training.recipes import processes_of_dialogues

ASSUMED = yaml.safe_load(Path(__file__).with_name("assumptions.yaml").read_text(encoding="utf-8"))
COMMITTED = Path(__file__).parent / "esconv_volumes.json"
"""Of each split of the release: dialogues, turns, characters of all prompts (one a turn, system
prompts included) and gold answers of a task, and of all entangled ``conversations``, which the
prompts hold many times over."""
OURS, JUDGES = ("requests", "read", "written"), ("judged", "judge_read", "judge_written")
Load = Any
"""pandas' Series of what a step takes: tokens ``trained`` over all epochs, in units of a supervised
one; requests and tokens of this kit's server (`OURS`), and of a judge elsewhere, whose time is not
counted (`JUDGES`)."""


def asked(who: tuple[str, ...], requests: float, characters: float, written: float) -> Load:
    """Requests by the characters of their prompts and the tokens of their answers."""
    return pandas.Series((requests, characters / CHARACTERS_PER_TOKEN, written), who)


def parted(step: str) -> tuple[str, str, str]:
    """(kind, task, variant) of a step of plans.mk."""
    target, _, variant = step.partition("@")
    kind, _, task = target.partition("-")
    return kind, task, variant


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
    layout: cli.Layout = "turn"

    @cached_property
    def backbone(self) -> Backbone:
        """The one that is trained."""
        return backbones.get(self.model)

    @cached_property
    def volumes(self) -> dict[str, dict[str, float]]:
        """Every split, as much as is asked for: the release's, scaled to what is built here."""
        found = files.read_json(COMMITTED)
        sets = files.read_json(self.work / paths.MANIFEST, default={"sets": {}})["sets"]
        for name, one in found.items():
            rows = sets.get(paths.sft_file("vanilla", name), {"rows": one["dialogues"]})["rows"]
            share = min(self.limit or rows, rows) / one["dialogues"]
            found[name] = {what: count * share for what, count in one.items()}
        return found

    @property
    def _hardware(self) -> str:
        return "gpu" if self.backbone.settings["gpus"] else "cpu"

    @property
    def _own_judge(self) -> bool:
        """Whether evaluation's judge is the base model of this kit's server."""
        return self.model == EMBEDDED and not self.judge

    @property
    def _asks(self) -> str:
        return self.judge or self.backbone.judge

    @property
    def _processes(self) -> int:
        return self.nproc or max(self.backbone.settings["gpus"], 1)

    @property
    def _served_by(self) -> int:
        """GPUs of the server: all, each with a copy of a model that one can hold."""
        of_one = self.backbone.serving_gpus
        return max(self._processes // of_one, 1) * of_one

    def _training(self, name: str, default: float) -> float:
        given = dict(word.partition("=")[::2] for word in self.train_args.split())
        try:
            return float(given.get(name, default))
        except ValueError:
            raise EscError(f"TRAIN_ARGS: {name}={given[name]} is no number") from None

    def load(self, step: str) -> Load:
        """The estimate of one step; nothing for those that only read and write files."""
        kind, task, variant = parted(step)
        parts: list[Load] = []
        if kind in ("sft", "dpo"):
            parts = [pandas.Series({"trained": self._trained(kind, task, variant)})]
        elif kind == "mine":
            parts = [one for name in ([task] if task else TASKS) for one in self._mine(name)]
        elif kind == "predict":
            parts = [self._predict(KINDS[name].system) for name in self.system]
        elif kind == "eval":
            parts = list(self._evaluate())
        return pandas.DataFrame(parts, columns=["trained", *OURS, *JUDGES], dtype=float).sum()

    def seconds(self, load: Load, step: str = "") -> float:
        """On the backbone's own hardware: A100s, or two CPU cores."""
        has = ASSUMED["hardware"][self._hardware]
        size = self.backbone.parameters if self._hardware == "gpu" else 1
        processes = self._processes
        if self.layout == paths.DIALOGUE and step in ("sft-sp", "sft-rg"):
            processes = processes_of_dialogues(processes, self.engine or self.backbone.engine)
        training, serving = (
            1 + has["scaling"] * (several - 1) for several in (processes, self._served_by)
        )
        took = (load.read / has["reading"] + load.written / has["writing"]) / serving
        took += load.trained / has["training"] / training
        return float(took * size + has["start"] * bool(load.trained or load.requests))

    def memory(self, step: str, load: Load) -> str:
        """Of each training process, or of each GPU of the server."""
        backbone = self.backbone
        if self._hardware == "cpu" or not (load.trained or load.requests):
            return "-"
        size = 2 * backbone.parameters * 1.25 / backbone.serving_gpus
        if load.trained:
            engine = self.engine or backbone.engine
            size = memory.gigabytes(backbone, engine, self._processes, CUTOFF, step[:3])
        return f"{size:,.0f} GB"

    def _pairs(self, task: str, variant: str = "") -> float:
        """The pairs there are, else those of the paper's yield."""
        lineage = Lineage(layout=self.layout).checked(task)
        named = paths.preference_dataset(task, self.model, lineage)
        mined = self.work / paths.preference_file(named)
        if mined.is_file() and variant not in (*MIXES, CONVERSE):
            return float(sum(1 for _ in files.read_jsonl(mined)))
        sp, rg = (float(ASSUMED["mined"][one] / ASSUMED["mined"]["of"]) for one in ("sp", "rg"))
        # The entangled model's errors, as if they were independent.
        of = {Quadrant.NSNR: sp * rg, Quadrant.NSPR: sp * (1 - rg), Quadrant.PSNR: (1 - sp) * rg}
        mixed = sum(of[one] for one in MIXES.get(variant, ALL))
        return self.volumes["train"]["turns"] * {"sp": sp, "rg": rg, "vanilla": mixed}[task]

    def _trained(self, stage: str, task: str, variant: str) -> float:
        one = self.volumes["train"]
        rows, side = one["turns"], one[f"{task}_prompts"] + one[f"{task}_answers"]
        if stage == "sft" and (task == "vanilla" or self.layout == paths.DIALOGUE):
            rows, side = one["dialogues"], one["conversations"]
        side /= CHARACTERS_PER_TOKEN * max(rows, 1)
        rows = self._pairs(task, variant) if stage == "dpo" else rows
        taken = min(rows, self._training("max_samples", math.inf))
        taken *= self._training("num_train_epochs", ASSUMED["epochs"][stage])
        if stage == "sft":
            return taken * side
        # How far it moved: three passes without a backward one, on some validation turns.
        drift = min(dialogue.DRIFT[self._hardware], self.volumes["validation"]["turns"])
        return float(2 * taken * ASSUMED["reference"] + drift) * side

    def _mine(self, task: str) -> Iterator[Load]:
        one, samples = self.volumes["train"], self.samples or ASSUMED["samples"][task]
        requests = samples * one["turns"]
        written = samples * one[f"{task}_answers"] / CHARACTERS_PER_TOKEN
        yield asked(OURS, requests, samples * one[f"{task}_prompts"], written)
        if task != "sp" and self._asks != RANDOM:
            # The conversation with both replies of every sample: at most, equal ones drop out.
            more, answer = ASSUMED["verdict"]
            seen = one["rg_prompts"] + one["rg_answers"] + one["turns"] * more
            yield asked(JUDGES, requests, samples * seen, requests * answer)

    def _predict(self, system: str) -> Load:
        one, kinds = self.volumes["test"], ASSUMED["answers"][system]
        read = sum(one[f"{kind}_prompts"] for kind in kinds)
        said = sum(one[f"{kind}_answers"] for kind in kinds) / CHARACTERS_PER_TOKEN
        # A later answer's prompt holds the earlier ones, but for the planner's.
        for place, kind in enumerate(kinds, start=1):
            read += one[f"{kind}_answers"] * (len(kinds) - place) * (kind != "sp")
        # The strategies' probabilities are one request more, over a prompt just read.
        return asked(OURS, one["turns"] * (len(kinds) + ("sp" in kinds)), read, said)

    def _evaluate(self) -> Iterator[Load]:
        if self._asks == RANDOM and not self._own_judge:
            return
        one, systems = self.volumes["test"], len(self.system)
        usual, again = dialogue.JUDGED, dialogue.REPEATED
        if self._own_judge:
            usual, again = dialogue.JUDGED_BY_EMBEDDED, 0
        turns, pairs = (
            min(self.judge_n or usual, most) for most in (one["turns"], self._pairs("rg"))
        )
        scores = 4 * (systems * (turns + min(again, turns)) + 2 * pairs + min(again, pairs))
        classes = systems * one["turns"] * (self._asks != RANDOM)
        said = (one["rg_prompts"] + 2 * one["rg_answers"]) / max(one["turns"], 1)
        forms = ASSUMED["score"][self.judge_form], ASSUMED["class"]
        for n, (more, answer) in zip((scores, classes), forms, strict=True):
            yield asked(OURS if self._own_judge else JUDGES, n, n * (said + more), n * answer)

    def is_done(self, step: str) -> bool:
        """Whether the files are there that the step writes last."""
        kind, task, variant = parted(step)
        lineage = Lineage(variant or None, layout=self.layout).checked(task)
        model, runs = self.model, Path("runs") / self.model
        tasks = [task] if task else TASKS
        known: dict[str, list[Path | str]] = {
            "model": [Path(backbones.get(EMBEDDED).location) / "manifest.json"],
            "data": [paths.MANIFEST],
            "check": [f"data/check_{model}.json"],
            "stats": [paths.STATS],
            "sft": [paths.adapter(model, task, "sft", lineage.sft) / "run.json"],
            "mine": [paths.preference_manifest(one, model, lineage.sft) for one in tasks],
            "dpo": [paths.adapter(model, task, "dpo", lineage) / "drift.json"],
            "predict": [self._run(name) / "run.json" for name in self.system],
            "eval": [runs / "comparisons.json"],
            "report": [runs / "report.html"],
        }
        return all((self.work / path).is_file() for path in known[kind])

    def _run(self, name: str) -> Path:
        system, stage, lineage = system_of(name, None, None, None, self.layout)
        return Path(paths.run(self.model, system, stage, lineage))

    def assumptions(self, price: Price | None) -> Iterator[str]:
        """What the estimates stand on, in words."""
        train, test = (self.volumes[split]["turns"] for split in ("train", "test"))
        told: files.Row = {"train": train, "test": test, "characters": CHARACTERS_PER_TOKEN}
        told |= {"processes": self._processes, "servers": self._served_by}
        told |= {"cutoff": CUTOFF, "name": self._asks, "cost": "set PRICE"}
        if price:
            told["cost"] = f"${price.prompt:g} and ${price.completion:g} a million"
        judge = "other" if self._asks != RANDOM else "own" if self._own_judge else "random"
        hardware = ASSUMED["hardware"][self._hardware]["told"]
        said = (ASSUMED["corpus"], ASSUMED["pairs"], hardware, ASSUMED["judge"][judge])
        yield from (one.format(**told) for one in said)
        yield ASSUMED["end"]


@cli.command(examples="  make reproduce MODEL=qwen2.5-7b DRY_RUN=1", name="estimate")
def main(about: Forecast) -> None:
    """Tell what a plan's steps would send, train and cost, before anything runs."""
    rows, total, spent = [], 0.0, 0.0
    text = about.price or ASSUMED["prices"].get(about.judge or about.backbone.judge)
    price = Price.parse(text) if text else None
    for step in about.step:
        load, done = about.load(step), about.is_done(step)
        seconds = about.seconds(load, step)
        cost = price.of(load.judge_read, load.judge_written) if price else 0.0
        total, spent = total + seconds * (not done), spent + cost * (not done)
        row = [step, "done" if done else "to run", _short(load.requests)]
        row += [_short(load.trained + load.read + load.written), about.memory(step, load)]
        told = f", ${cost:,.2f}" if price else ""
        judge = f"{_short(load.judged)} asked{told}" if load.judged else "-"
        rows.append([*row, _clock(seconds), judge])
    heads = ["step", "state", "requests", "tokens", "GPU memory", "time", "judge"]
    sides = ("left", "left", *["right"] * 5)
    table = pandas.DataFrame(rows, columns=heads)
    print(table.to_markdown(index=False, tablefmt="plain", colalign=sides))
    money = f", and ${spent:,.2f} for the judge" if price else ""
    print(f"\nto run: {_clock(total)}{money}", *about.assumptions(price), sep="\n")


def _short(number: float) -> str:
    unit, size = ("M", 1e6) if number >= 1e6 else ("k", 1e3) if number >= 1e3 else ("", 1)
    return f"{number / size:,.{bool(unit):d}f}{unit}" if number else "-"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if seconds else "-"
