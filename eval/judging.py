"""Who judges in evaluation, and asking them: what the steps that score and compare share.

The embedded model's own runs are judged by the embedded model (a smoke run, and no judgement):
``base`` without an address is the base model on this WORK's server, which is started where none
runs.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from esc import adapters, backbones, cli
from esc.backbones import EMBEDDED
from esc.chat.failures import Failure
from esc.chat.job import Job, Sending
from esc.chat.job import add_arguments as add_sending
from esc.chat.meter import Meter
from esc.chat.policy import Asks
from esc.files import Row
from esc.judge import (
    Judge,
    add_judge_name,
    add_judge_url,
    check_not_all_refused,
    judge_for,
    keyless,
)
from esc.measured_turns import JUDGED, JUDGED_BY_EMBEDDED, REPEATED
from esc.run_folder import RunFolder
from esc.weights import weights_of

Question = TypeVar("Question")


@dataclass(frozen=True, slots=True)
class Bench:
    """Who is asked, and where."""

    judge: Judge
    model: str
    """The backbone whose base model ``base`` is."""
    work: Path

    @property
    def name(self) -> str:
        """Of the judge, as a reader knows it."""
        return f"{self.model} (base)" if self.judge.name == adapters.BASE else self.judge.name

    @property
    def is_smoke(self) -> bool:
        """Whether what it says is no judgement."""
        is_embedded = self.judge.name == adapters.BASE and self.model == EMBEDDED
        return self.judge.is_smoke or is_embedded

    @property
    def is_own(self) -> bool:
        """Whether it is the base model of this kit's own server."""
        return self.judge.name == adapters.BASE and not self.judge.urls

    @property
    def turns(self) -> int:
        """How many turns it is asked about unless a user says otherwise."""
        return JUDGED_BY_EMBEDDED if self._judges_itself else JUDGED

    @property
    def repeated(self) -> int:
        """How many of them it is asked about twice: the embedded one's agreement says nothing."""
        return 0 if self._judges_itself else REPEATED

    @property
    def _judges_itself(self) -> bool:
        """Whether the embedded model is asked about its own runs."""
        return self.is_own and self.model == EMBEDDED

    @property
    def weights(self) -> dict[str, str]:
        """Served name to a hash of what answers, where it is this kit's own server."""
        return weights_of(self.work, self.model, [adapters.BASE]) if self.is_own else {}

    @contextmanager
    def urls(self, sending: Sending) -> Iterator[Sequence[str]]:
        """Where it is asked while the block runs."""
        if self.judge.urls:
            yield self.judge.urls
        else:
            with sending.servers(self.model, self.work, None, self.weights) as where:
                yield where.urls


def usual_judge(model: str) -> str:
    """Who judges a backbone's runs unless JUDGE says otherwise; EscError for an unknown one."""
    return adapters.BASE if model == EMBEDDED else backbones.get(model).judge


def bench_of(given: argparse.Namespace) -> Bench:
    """The judge that parsed arguments name, or the one of the table of backbones.

    Raises EscError where the hosted one is meant and there is no key.
    """
    backbones.get(given.model)
    name = given.judge or usual_judge(given.model)
    if name == adapters.BASE and not given.judge_base_url:
        return Bench(Judge(name, ()), given.model, given.work)
    judge = judge_for(given.model, name, given.judge_base_url, keyless=keyless(given))
    return Bench(judge, given.model, given.work)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every judging step."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--n",
        type=cli.optional_count,
        default=os.environ.get("JUDGE_N") or None,
        help=f"turns to judge, drawn by their id (default: $JUDGE_N, or {JUDGED})",
    )
    backbones.add_model(parser, "whose judge is asked unless one is named")
    cli.add_work(parser)
    add_judge_name(parser)
    add_judge_url(parser)
    add_sending(parser, judge=True)
    parser.add_argument("--force", action="store_true", help="replace other options' results")


def ask(
    bench: Bench,
    folder: RunFolder,
    what: str,
    questions: Sequence[Question],
    work: Callable[[Asks, Question], Awaitable[Row]],
    sending: Sending,
) -> tuple[Sequence[Row | Failure], Row] | None:
    """(a row or final failure for every question, what was sent); None for a dry run.

    Raises EscError where a judge refuses every question, so that the request is at fault.
    """
    cache = folder.cache({"judge": bench.name, "question": what})
    if cache.repaired:
        print("the last stored answer was torn and is asked for again", file=sys.stderr)
    job = Job(
        what=what,
        records=questions,
        work=work,
        cache=cache,
        models=[bench.judge.name],
        weights=bench.weights,
    )
    rehearsal, rows = job.rehearse()
    if sending.dry_run:
        print(rehearsal.report(sending.budget))
        return None
    results: Sequence[Row | Failure] = rows
    meter = Meter(sending.budget, cached=rehearsal.cached)
    if rehearsal.requests:
        with bench.urls(sending) as urls:
            results, meter = job.ask(urls, sending, listed=False)
    check_not_all_refused(bench.name, results)
    sent = {"answered": meter.answered, "cached": meter.cached, "failed": meter.failed}
    cost = round(meter.budget.spent, 4) if meter.budget.price else None
    return results, {"requests": sent, "cost": cost}
