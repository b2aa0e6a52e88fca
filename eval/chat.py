"""Talk with planner and generator in the terminal: the strategy first, then the reply under it.

    python -m eval chat --model smollm2-135m --stage sft

Each strategy is shown with the probability the planner gives it. Nothing that is said is stored.
End with Ctrl-D.
"""

from esc import adapters, backbones, cli, policy_server
from esc.backbones import DECODE
from esc.dialogue import Exchange
from esc.llm import CallFailed
from esc.paths import at_stage
from esc.plan_and_speak import PlanAndSpeak
from esc.visible import visible

NOTICE = (
    "This is research software and no counsellor; it can be wrong, and it must not stand between\n"
    "you and help. If you are in distress, talk to someone you trust or to a local helpline."
)


def talk(pipeline: PlanAndSpeak) -> None:
    """Read lines and answer them until the input ends."""
    history: list[Exchange] = []
    while True:
        try:
            said = " ".join(input("you> ").split())
        except EOFError:
            print()
            return
        if not said:
            continue
        try:
            plan = pipeline.plan(history, said)
            if plan.strategy is None:
                print(f"(no strategy in the planner's answer {plan.raw!r}; say it another way)")
                continue
            sure = "" if plan.probability is None else f" {plan.probability:.0%}"
            print(f"[{plan.strategy}{sure}]", flush=True)
            reply = pipeline.speak(history, said, plan.strategy)
        except CallFailed as failed:
            print(f"(no answer: {visible(str(failed))})")
            continue
        print(f"bot> {visible(reply)}")
        history.append((said, reply))


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m eval chat",
        description=__doc__,
        examples="  python -m eval chat --stage sft\n  python -m eval chat --stage base",
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    parser.add_argument("--stage", choices=adapters.STAGES, default="sft")
    parser.add_argument("--variant", type=cli.optional, help="of the DPO training")
    parser.add_argument("--round", type=cli.optional_count, help="of the DPO training")
    parser.add_argument(
        "--decode",
        type=cli.optional,
        choices=(*DECODE, None),
        help="default: as the table of backbones says",
    )
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--base-url", type=cli.optional, help="one or several, separated by commas")
    given = parser.parse_args(argv)
    backbone = backbones.get(given.model)
    lineage = at_stage(given.stage, given.variant, given.round)
    print(NOTICE)
    with (
        policy_server.servers(given.model, given.work, given.base_url, {}) as where,
        PlanAndSpeak(
            where,
            stage=given.stage,
            lineage=lineage,
            decode=given.decode or backbone.decode,
            reply_tokens=backbone.reply_tokens,
            temperature=given.temperature,
        ) as pipeline,
    ):
        talk(pipeline)
