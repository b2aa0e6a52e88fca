"""Runs a plan step by step: goes on where it was, and round what fails.

Its state are the steps' own files. ``runs/<model>/plan/<name>.json`` says which of them were made
by this plan with these options; a step is done where its file and those it was made from are still
the ones that stand there. Anything else is run again: each step knows by itself what is left to do.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from esc import files
from esc.files import Row
from experiments import told
from experiments.outcome import THERE, Outcome, State
from experiments.own_server import OwnServer
from experiments.plan import Step
from experiments.variables import OWNED

TOGETHER = 4
"""Steps that ask a server at a time."""


@dataclass
class Runner:
    """A plan being run."""

    name: str
    """Also make's target, which a message tells to call again."""
    model: str
    work: Path
    variables: Mapping[str, str]
    """Make's, for every step; with others, all is asked anew."""
    speed: Mapping[str, str] = field(default_factory=dict)
    """More of them, which do not change what comes out."""
    own_server: bool = True
    """Whether this kit serves; else requests go to BASE_URL."""
    outcomes: list[Outcome] = field(default_factory=list)
    _lock: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        """The record of what this plan has made."""
        return self.work / "runs" / self.model / "plan" / f"{self.name}.json"

    def done(self, whole: Sequence[Step]) -> set[str]:
        """The names of all steps of a whole plan that are done, or have nothing to do."""
        known, by_name = self._known(), {step.name: step for step in whole}
        return {step.name for step in whole if self._is_done(step, known, by_name)}

    def made(self, whole: Sequence[Step]) -> set[str]:
        """The names of those whose file is there, by this plan or by a call of their own."""
        return {step.name for step in whole if (self.work / step.product).is_file()}

    def _known(self) -> dict[str, Row]:
        """Name to record of every step that was done with these variables."""
        record = files.read_json(self.path) if self.path.is_file() else {}
        # With others, steps are asked anew: each compares its options with those it was made with.
        same = record.get("options") == dict(self.variables)
        return dict(record["steps"]) if same else {}

    def _is_done(self, step: Step, known: Mapping[str, Row], by_name: Mapping[str, Step]) -> bool:
        record = known.get(step.name)
        if step.always or record is None:
            return False
        return bool(record["files"] == self._files(step, by_name))

    def run(self, plan: Sequence[Step], whole: Sequence[Step] = ()) -> int:
        """Exit code: 0 where every step is done or has nothing to do, 1 where one failed.

        ``whole`` is the plan that ``plan`` is a part of, whose files its steps may be made from.
        """
        begin = time.monotonic()
        server = OwnServer(
            self.make, self.model, self.work, self.outcomes.append, wanted=self.own_server
        )
        waiting = (
            f"waiting: another 'make {self.name}' works in {self.path.parent}, or a step that a "
            "killed one had begun; Ctrl-C leaves it alone"
        )
        with files.exclusive(self.path.parent, waiting=waiting) as lock:
            # A step that outlives us holds the lock: it never runs beside the next plan's.
            self._lock = (lock,)
            try:
                self._run(plan, whole or plan, server)
            finally:
                server.stop()
        print("\n".join(self.summary(time.monotonic() - begin)), flush=True)
        return int(any(one.state is State.FAILED for one in self.outcomes))

    def _run(self, plan: Sequence[Step], whole: Sequence[Step], server: OwnServer) -> None:
        done, by_name = self._known(), {step.name: step for step in whole}
        states: dict[str, State] = {}

        def keep(step: Step, one: Outcome) -> None:
            states[step.name] = one.state
            self.outcomes.append(one)
            if one.state in (State.RAN, State.NOT_RUN):
                kept = State.DONE if one.state is State.RAN else State.NOT_RUN
                made_from = self._files(step, by_name)
                done[step.name] = {"state": kept, "why": one.why, "files": made_from}
                files.write_json(self.path, {"options": dict(self.variables), "steps": done})

        for group in _groups(plan):
            to_run = []
            for step in group:
                if self._is_done(step, done, by_name):
                    known = done[step.name]
                    keep(
                        step, Outcome(step.name, step.what, State(known["state"]), 0, known["why"])
                    )
                elif barred := self._barred(step, states, server):
                    keep(step, barred)
                else:
                    to_run.append(step)
            if len(to_run) == 1:
                place = f"{plan.index(to_run[0]) + 1}/{len(plan)}"
                print(f"\n=== {place} {to_run[0].name}: {to_run[0].what}", flush=True)
                keep(to_run[0], self._made(to_run[0], None))
            elif to_run:
                self._together(to_run, keep, server)

    def _together(
        self, steps: Sequence[Step], keep: Callable[[Step, Outcome], None], server: OwnServer
    ) -> None:
        """Run steps that ask one server; alone, each would leave it half idle."""
        print(f"\n=== {len(steps)} steps, {TOGETHER} at a time: their output in", flush=True)
        print(f"    {self.path.parent}/<step>.log", flush=True)
        pool = ThreadPoolExecutor(TOGETHER)
        try:
            begun = {pool.submit(self._beside, step, server): step for step in steps}
            for ended in tqdm(as_completed(begun), total=len(steps), desc="steps", unit=" steps"):
                one = ended.result()
                tqdm.write(f"{one.name}: {one.state}, {one.seconds:,.0f} s {one.why}".rstrip())
                keep(begun[ended], one)
        finally:
            # After Ctrl-C, what runs is waited for, and what waits never begins.
            pool.shutdown(wait=True, cancel_futures=True)

    def _beside(self, step: Step, server: OwnServer) -> Outcome:
        """What becomes of a step that is run beside others; its output goes to its log."""
        # Without this, each would start a server of its own, several at a time.
        if step.served and not server.alive():
            why = f"the server has ended; see {server.log}"
            return Outcome(step.name, step.what, State.FAILED, why=why)
        return self._made(step, self.path.parent / f"{step.name}.log")

    def _barred(self, step: Step, states: Mapping[str, State], server: OwnServer) -> Outcome | None:
        """Why a step cannot run, or None where it can; with the server it asks."""
        needs = [need for need in step.needs if need in states]
        missing = [need for need in needs if states[need] not in THERE]
        failed = [need for need in missing if states[need] is not State.NOT_RUN]
        if missing and not step.takes_what_is_there:
            state = State.LEFT_OUT if failed else State.NOT_RUN
            return Outcome(step.name, step.what, state, why=f"needs {(failed or missing)[0]}")
        if step.pairs and not (self.work / step.pairs).is_file():
            why = f"0 pairs for {step.pairs.stem}"
            return Outcome(step.name, step.what, State.NOT_RUN, why=why)
        if not server.ready(step):
            return Outcome(step.name, step.what, State.LEFT_OUT, why="needs the server")
        return None

    def _made(self, step: Step, log: Path | None) -> Outcome:
        """What becomes of a step that is run now."""
        begin, started = time.monotonic(), time.time()
        code, reason = self.make(step.target, step.variables, log=log)
        seconds = time.monotonic() - begin
        if code == 0 and (self.work / step.product).is_file():
            return Outcome(step.name, step.what, State.RAN, seconds)
        nothing = self.work / step.nothing if step.nothing else None
        if nothing and nothing.is_file() and nothing.stat().st_mtime >= started - 1:
            told = files.read_json(nothing)["told"]
            return Outcome(step.name, step.what, State.NOT_RUN, seconds, told)
        why = reason if code else f"{step.product} is not there"
        return Outcome(step.name, step.what, State.FAILED, seconds, why)

    def make(
        self,
        target: str,
        variables: Mapping[str, str],
        until: Callable[[], bool] | None = None,
        *,
        log: Path | None = None,
    ) -> tuple[int, str]:
        """(exit code, why it failed) of a target with the plan's variables and these.

        Its output passes through, or goes to ``log``; it is ended where ``until`` says so.
        """
        given = {
            "MODEL": self.model,
            "WORK": str(self.work),
            **self.variables,
            **self.speed,
            **variables,
        }
        # What the outer make was told is in the variables already; here it would win over a step's,
        # or decide what comes out without being recorded.
        apart = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", *given, *OWNED}
        environment = {name: value for name, value in os.environ.items() if name not in apart}
        command = ["make", "--no-print-directory", target, *(f"{k}={v}" for k, v in given.items())]
        return told.run(command, environment, log, self._lock, until)

    def _files(self, step: Step, by_name: Mapping[str, Step]) -> dict[str, str | None]:
        """The hashes of what a step made and of what it was made from."""
        read = [step, *(by_name[need] for need in step.needs if need in by_name)]
        return {one.name: self._hash(one) for one in read}

    def _hash(self, step: Step) -> str | None:
        path = self.work / step.product
        return files.sha256(path) if path.is_file() else None

    def summary(self, seconds: float) -> list[str]:
        """What became of every step, and how to go on."""
        failed = [one for one in self.outcomes if one.state is State.FAILED]
        lines = ["", f"=== {'done' if not failed else f'{len(failed)} failed'}, {clock(seconds)}"]
        for one in self.outcomes:
            took = f"{one.seconds:,.0f} s" if one.state is State.RAN else one.state.value
            why = f" ({one.why})" if one.why else ""
            lines.append(f"  {one.name:<28} {took:>8}  {one.what}{why}")
        if failed:
            lines.append(f"'make {self.name}' with the same variables goes on with what is missing")
        return lines


def _groups(plan: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps in order; those that stand together and may run so, in one list."""
    for together, steps in groupby(plan, key=lambda step: step.together):
        if together:
            yield list(steps)
        else:
            yield from ([step] for step in steps)


def clock(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``12 min 3 s``, ``5 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
