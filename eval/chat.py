"""Talk with planner and generator in the terminal: the strategy first, then the reply under it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esc import backbones, cli, policy_server
from esc.dialogue import Exchange
from esc.llm import Failure
from esc.paths import EMBEDDED, at_stage
from esc.plan_and_speak import PlanAndSpeak
from esc.strategies import Strategy
from esc.visible import visible

NOTICE = (
    "This is research software and no counsellor; it can be wrong, and it must not stand between\n"
    "you and help. If you are in distress, talk to someone you trust or call your local emergency\n"
    "number; findahelpline.com lists helplines by country."
)


def talk(pipeline: PlanAndSpeak) -> None:
    """Read lines and answer them until the input ends."""
    history: list[Exchange] = []
    strategies: list[Strategy | None] = []
    while True:
        try:
            said = " ".join(input("you> ").split())
        except EOFError:
            print()
            return
        if not said:
            continue
        try:
            plan = pipeline.plan(history, said, strategies)
            if plan.strategy is None:
                print(f"(no strategy in the planner's answer {plan.raw!r}; say it another way)")
                continue
            sure = "" if plan.probability is None else f" {plan.probability:.0%}"
            print(f"[{plan.strategy}{sure}]", flush=True)
            reply = pipeline.speak(history, said, plan.strategy, strategies)
        except Failure as failed:
            print(f"(no answer: {visible(str(failed))})")
            continue
        print(f"bot> {visible(reply)}")
        history.append((said, reply))
        strategies.append(plan.strategy)


@cli.command(examples="  python -m eval chat --stage sft\n  python -m eval chat --stage base")
def main(
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    stage: Annotated[Literal["base", "sft", "dpo"], typer.Option(envvar="STAGE")] = "sft",
    variant: cli.Variant = None,
    layout: cli.Layout = "turn",
    round: Annotated[  # noqa: A002
        int | None, typer.Option(envvar="ROUND", min=1, help="of the DPO training")
    ] = None,
    decode: cli.Decode = None,
    temperature: Annotated[float, typer.Option(envvar="TEMPERATURE", min=0)] = 0.7,
    base_url: cli.BaseUrl = None,
) -> None:
    """Talk with planner and generator; each strategy is shown with the probability it is given.

    Nothing that is said is stored. End with Ctrl-D.
    """
    backbone = backbones.get(model)
    lineage = at_stage(stage, variant, round, layout)
    print(NOTICE)
    with PlanAndSpeak(
        policy_server.servers(model, work, base_url, {}),
        stage=stage,
        lineage=lineage,
        decode=decode or backbone.decode,
        reply_tokens=backbone.reply_tokens,
        temperature=temperature,
    ) as pipeline:
        talk(pipeline)
