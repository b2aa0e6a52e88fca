"""The paper's whole experiment for one backbone, as one restartable command.

    python -m experiments reproduce --model smollm2-135m --set LIMIT=1 ESCONV=ESConv.json

Vanilla and decoupled at Base, SFT and DPO, the prompt baselines (Table 3), the generator under the
gold strategy (Table 4), the mixes of pairs (Table 5, Figure 4), judge, errors, report. Each step is
the make target a user runs. The state are the steps' own files: after a kill the same command goes
on, a step that fails takes down only what needs it. ``--dry-run`` shows the plan with what every
step would take, on a machine without GPU or network too. MAX_COST limits each step by
itself, not their sum. With LIMIT the embedded model learns from a few rows alone, at a rate that
moves it; TRAIN_ARGS says otherwise.
Several machines (NNODES) share a training that is called by itself.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from esc import backbones, cli, dialogue, files, nodes, paths
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.judging import RANDOM
from esc.llm import CHARACTERS_PER_TOKEN, Price
from esc.paths import EMBEDDED
from esc.prompts import TASKS
from experiments import estimate, variables
from experiments.estimate import Known, known
from experiments.plan import Sizes, Step, only, steps
from experiments.runner import Runner, clock
from experiments.variables import DECISIVE, SPEED
from training import memory

NAME = "reproduce"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a reproduction."""

    model: str
    work: Path
    given: dict[str, str]
    """Make's variables that are set."""
    only: tuple[str, ...] = ()
    """The steps to go to; empty for all."""

    @property
    def backbone(self) -> Backbone:
        """The one that is trained."""
        return backbones.get(self.model)

    @property
    def whole(self) -> list[Step]:
        """All steps of the experiment, in order."""
        return steps(self.model, Sizes(), whole=True, judge_is_served=self.judge_is_served)

    @property
    def plan(self) -> list[Step]:
        """Those of them to go through."""
        return only(self.whole, self.only) if self.only else self.whole

    @property
    def judge_is_served(self) -> bool:
        """Whether evaluation asks the base model of this kit's own server."""
        return self.model == EMBEDDED and not self.given.get("JUDGE")

    @property
    def judged(self) -> int:
        """Turns of each system that a judge scores."""
        usual = dialogue.JUDGED
        if self.judge_is_served:
            usual = dialogue.JUDGED_BY_EMBEDDED
        return self.count("JUDGE_N") or usual

    @property
    def runner(self) -> Runner:
        """What runs it."""
        return Runner(
            NAME,
            self.model,
            self.work,
            {name: self.given[name] for name in DECISIVE if name in self.given},
            {name: self.given[name] for name in SPEED if name in self.given},
            own_server="BASE_URL" not in self.given,
        )

    def count(self, name: str) -> int | None:
        """A variable that is a whole number, None where it is not set."""
        return variables.count(self.given, name)


def dry_run(asked: Asked) -> Iterator[str]:
    """The plan, and what each step of it takes."""
    plan, whole = asked.plan, asked.whole
    states = _states(asked)
    left = [step for step in plan if states[step.name] == _TO_RUN]
    corpus = known(asked.work, asked.given)
    backbone = asked.backbone
    judge = asked.given.get("JUDGE") or backbone.judge
    price = _price(asked, judge)
    processes = asked.count("NPROC") or max(backbone.settings["gpus"], 1)
    rates = estimate.rates(backbone, processes)
    about = estimate.Asked(
        corpus.volumes,
        asked.count("LIMIT"),
        judge,
        asked.judged,
        asked.count("SAMPLES"),
        asked.judge_is_served,
        sum(step.target == "predict" for step in whole),
        _pairs(asked) if corpus.as_asked else {},
        dialogue.DRIFT["gpu" if backbone.settings["gpus"] else "cpu"],
        variables.epochs(asked.given),
        variables.rows(asked.given),
        variables.judge_form(asked.given),
    )
    yield (
        f"{len(plan)} steps for {asked.model} ({backbone.parameters:g} billion parameters): "
        f"{len(plan) - len(left)} done, {len(left)} to run"
    )
    yield ""
    width = max(len(step.name) for step in plan) + 2
    yield (
        f"  {'step':<{width}}{'state':<8}{'requests':>10}{'tokens':>10}{'GPU memory':>12}"
        f"{'time':>13}{'judge':>20}"
    )
    seconds = cost = 0.0
    for step in plan:
        load = estimate.load(step, about)
        takes = load.seconds(rates)
        if step in left:
            seconds += takes
            cost += load.cost(price) if price else 0.0
        tokens = load.trained + load.prompt_tokens + load.answer_tokens
        yield (
            f"  {step.name:<{width}}{states[step.name]:<8}"
            f"{_count(load.requests):>10}{_count(tokens):>10}{_memory(step, asked, processes):>12}"
            f"{clock(takes) if takes else '—':>13}{_judged(load, price):>20}"
        )
    yield ""
    yield f"to run: {clock(seconds)}" + (f", and ${cost:,.2f} for the judge" if price else "")
    if _MADE in states.values():
        yield "made       by a call of its own; a step compares options when the plan comes to it"
    yield from _assumptions(asked, about, rates, corpus, price)


_DONE, _MADE, _TO_RUN = "done", "made", "to run"


def _states(asked: Asked) -> dict[str, str]:
    """Name of every step of the plan to what is there of it."""
    runner, whole = asked.runner, asked.whole
    done, made = runner.done(whole), runner.made(whole)
    return {
        step.name: _DONE if step.name in done else _MADE if step.name in made else _TO_RUN
        for step in asked.plan
    }


def _price(asked: Asked, judge: str) -> Price | None:
    return variables.budget(asked.given).price or estimate.PRICES.get(judge)


def _pairs(asked: Asked) -> dict[str, int]:
    found = {}
    for task in TASKS:
        path = asked.work / paths.preference_file(paths.preference_dataset(task, asked.model))
        if path.is_file():
            found[task] = sum(1 for _ in files.read_jsonl(path))
    return found


def _memory(step: Step, asked: Asked, processes: int) -> str:
    """Of each training process, or of each GPU of the server."""
    backbone = asked.backbone
    kind, _, _ = step.target.partition("-")
    if not backbone.settings["gpus"] or not (kind in estimate.EPOCHS or step.served):
        return "—"
    if step.served:
        return f"{2 * backbone.parameters * 1.25 / backbone.serving_gpus:,.0f} GB"
    engine = asked.given.get("ENGINE") or backbone.engine
    stage = "kto" if step.variables.get("VARIANT") == "kto" else kind
    size = memory.gigabytes(
        backbone, engine=engine, processes=processes, length=_length(asked), stage=stage
    )
    return f"{size:,.0f} GB"


def _length(asked: Asked) -> int:
    """Tokens of the longest row that the recipes take."""
    recipe = yaml.safe_load(paths.recipe(asked.model, "sp", "sft").read_text(encoding="utf-8"))
    return int(recipe["cutoff_len"])


def _count(number: float) -> str:
    if not number:
        return "—"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:,.0f}"


def _judged(load: estimate.Load, price: Price | None) -> str:
    if not load.judged:
        return "—"
    told = f"{_count(load.judged)} asked"
    return f"{told}, ${load.cost(price):,.2f}" if price else told


def _assumptions(
    asked: Asked,
    about: estimate.Asked,
    rates: estimate.Rates,
    corpus: Known,
    price: Price | None,
) -> Iterator[str]:
    train, test = about.train, about.test
    yield (
        f"corpus     {corpus.told}: {train.turns:,} train and {test.turns:,} test turns; "
        f"{CHARACTERS_PER_TOKEN} characters a token"
    )
    told = ", ".join(f"{task} {count:,} mined" for task, count in about.pairs.items())
    yield f"pairs      {told or 'as many a turn as the paper has of Qwen (Table 1)'}"
    yield f"hardware   {rates.told}; each step {rates.start:.0f} s besides"
    if asked.given.get("TRAIN_ARGS"):
        yield "training   of TRAIN_ARGS, num_train_epochs and max_samples alone count here"
    if asked.backbone.settings["gpus"]:
        yield (
            f"memory     of each training process at {_length(asked):,} tokens; of each GPU of a "
            "server, its share of the weights and a quarter for what it has read"
        )
    if about.judge == RANDOM:
        scored = "in mining, the base model in evaluation" if about.own_judge else "throughout"
        yield f"judge      random draws {scored}: SMOKE, no result"
    elif price:
        yield (
            f"judge      {about.judge} at ${price.prompt:g} and ${price.completion:g} a million "
            "tokens; its time is not in the sum"
        )
    else:
        yield f"judge      {about.judge}: price not known; PRICE=in/out gives it"
    if "FAILED_ESCONV" in asked.given:
        yield "Figure 2   the verdicts on FAILED_ESCONV's replies, one each, are not counted here"
    yield "An estimate; 'python -m STEP --dry-run' counts what is really left of one step."


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    backbones.get(given.model)
    variables.refuse_others(os.environ)
    set_by_user = variables.parsed(given.set)
    taken = variables.with_smoke_training(given.model, set_by_user)
    asked = Asked(given.model, given.work, taken, tuple(given.steps))
    if nodes.here().count > 1:
        raise EscError(
            "'make reproduce' runs on one machine; with NNODES, call a training's own target on "
            "each, such as 'make sft-sp', and then 'make reproduce' on one: it goes on with them"
        )
    if taken != set_by_user:
        print(f"SMOKE      trained with TRAIN_ARGS='{taken['TRAIN_ARGS']}', unless you set others")
    if given.dry_run:
        print("\n".join(dry_run(asked)))
        return 0
    return asked.runner.run(asked.plan, asked.whole)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m experiments reproduce",
        description=__doc__,
        examples="  make reproduce MODEL=qwen2.5-7b DRY_RUN=1\n"
        "  make reproduce LIMIT=1 ESCONV=ESConv.json WORK=small\n"
        "  make reproduce MODEL=qwen2.5-7b NPROC=4\n"
        '  make reproduce MODEL=qwen2.5-7b STEPS="predict-decoupled_dpo"',
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="make's variables for the steps"
    )
    parser.add_argument(
        "--steps", nargs="*", default=[], metavar="STEP", help="those alone, with what they need"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and what it takes")
    return parser
