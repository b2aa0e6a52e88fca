"""Runs a plan step by step: goes on where it was, and round what fails.

Its state are the steps' own files. ``runs/<model>/plan/<name>.json`` says which of them were made
by this plan with these options; a step is done where its file and those it was made from are still
the ones that stand there. Anything else is run again: each step knows by itself what is left to do.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from esc import files, policy_server
from esc.files import Row
from experiments import told
from experiments.plan import Step


class State(StrEnum):
    """What became of a step."""

    DONE = "done"
    """Before this call."""
    RAN = "ran"
    NOT_RUN = "not run"
    """There is nothing for it to do: no pairs."""
    FAILED = "failed"
    LEFT_OUT = "left out"
    """A step that it needs failed."""


THERE = (State.DONE, State.RAN)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step, or the start of a server for it."""

    name: str
    what: str
    state: State
    seconds: float = 0.0
    why: str = ""
    """Of what was not run, or failed."""


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

    @property
    def path(self) -> Path:
        """The record of what this plan has made."""
        return self.work / "runs" / self.model / "plan" / f"{self.name}.json"

    def done(self, plan: Sequence[Step]) -> set[str]:
        """The names of all steps of ``plan`` that are done, or have nothing to do."""
        known, by_name = self._known(), {step.name: step for step in plan}
        return {step.name for step in plan if self._is_done(step, known, by_name)}

    def _known(self) -> dict[str, Row]:
        """Name to record of every step that was done with these variables."""
        record = files.read_json(self.path) if self.path.is_file() else {}
        # With others, steps are asked anew: each compares its options with those it was made with.
        same = record.get("options") == dict(self.variables)
        return dict(record["steps"]) if same else {}

    def _is_done(self, step: Step, known: Mapping[str, Row], by_name: Mapping[str, Step]) -> bool:
        record = known.get(step.name)
        return record is not None and record["files"] == self._files(step, by_name)

    def run(self, plan: Sequence[Step]) -> int:
        """Exit code: 0 where every step is done or has nothing to do, 1 where one failed."""
        begin = time.monotonic()
        with files.exclusive(self.path.parent), self._server() as server:
            self._run(plan, server)
        print("\n".join(self.summary(time.monotonic() - begin)), flush=True)
        return int(any(one.state is State.FAILED for one in self.outcomes))

    def _run(self, plan: Sequence[Step], server: "_Server") -> None:
        done, by_name = self._known(), {step.name: step for step in plan}
        states: dict[str, State] = {}
        for number, step in enumerate(plan, start=1):
            if self._is_done(step, done, by_name):
                known = done[step.name]
                one = Outcome(step.name, step.what, State(known["state"]), why=known["why"])
            else:
                one = self._reached(step, states, server, f"{number}/{len(plan)}")
            states[step.name] = one.state
            self.outcomes.append(one)
            if one.state in (State.RAN, State.NOT_RUN):
                kept = State.DONE if one.state is State.RAN else State.NOT_RUN
                made_from = self._files(step, by_name)
                done[step.name] = {"state": kept, "why": one.why, "files": made_from}
                files.write_json(self.path, {"options": dict(self.variables), "steps": done})

    def _reached(
        self, step: Step, states: Mapping[str, State], server: "_Server", place: str
    ) -> Outcome:
        needs = [need for need in step.needs if need in states]
        missing = [need for need in needs if states[need] not in THERE]
        failed = [need for need in missing if states[need] is not State.NOT_RUN]
        if missing and not step.takes_what_is_there:
            state = State.LEFT_OUT if failed else State.NOT_RUN
            return Outcome(step.name, step.what, state, why=f"needs {(failed or missing)[0]}")
        if step.pairs and not (self.work / step.pairs).is_file():
            return Outcome(
                step.name, step.what, State.NOT_RUN, why=f"0 pairs for {step.pairs.stem}"
            )
        if not server.ready(step):
            return Outcome(step.name, step.what, State.LEFT_OUT, why="needs the server")
        print(f"\n=== {place} {step.name}: {step.what}", flush=True)
        begin, started = time.monotonic(), time.time()
        code, reason = self.make(step.target, step.variables)
        seconds = time.monotonic() - begin
        if code == 0 and (self.work / step.product).is_file():
            return Outcome(step.name, step.what, State.RAN, seconds)
        nothing = self.work / step.nothing if step.nothing else None
        if nothing and nothing.is_file() and nothing.stat().st_mtime >= started - 1:
            told = files.read_json(nothing)["told"]
            return Outcome(step.name, step.what, State.NOT_RUN, seconds, told)
        why = reason if code else f"{step.product} is not there"
        return Outcome(step.name, step.what, State.FAILED, seconds, why)

    def make(self, target: str, variables: Mapping[str, str]) -> tuple[int, str]:
        """(exit code, why it failed) of a target with the plan's variables and these."""
        given = {
            "MODEL": self.model,
            "WORK": str(self.work),
            **self.variables,
            **self.speed,
            **variables,
        }
        # What the outer make was told is in the variables already; here it would win over a step's.
        apart = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", *given}
        environment = {name: value for name, value in os.environ.items() if name not in apart}
        command = ["make", "--no-print-directory", target, *(f"{k}={v}" for k, v in given.items())]
        return told.run(command, environment)

    @contextmanager
    def _server(self) -> Iterator["_Server"]:
        server = _Server(self)
        try:
            yield server
        finally:
            server.stop()

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


class _Server:
    """The server between trainings: started before the first step that asks it."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._up, self._failed = runner, False, False

    def ready(self, step: Step) -> bool:
        """Whether the step may run: with the server it asks, or with none beside a training."""
        if not self._runner.own_server:
            return True
        if not step.served:
            self.stop()
            self._failed = False
            return True
        if not self._up and not self._failed:
            self._start()
        return self._up

    def _start(self) -> None:
        # One that a killed run has left may hold older adapters.
        self._stop_any()
        print("\n=== serve: the base and every adapter, for the steps that follow", flush=True)
        begin = time.monotonic()
        code, why = self._runner.make("serve", {"PORT": "0"})
        seconds = time.monotonic() - begin
        self._up, self._failed = code == 0, code != 0
        state = State.FAILED if code else State.RAN
        self._runner.outcomes.append(Outcome("serve", "one vLLM server", state, seconds, why))

    def stop(self) -> None:
        """End it."""
        if self._runner.own_server:
            self._stop_any()
        self._up = False

    def _stop_any(self) -> None:
        if policy_server.running(self._runner.model, self._runner.work):
            self._runner.make("stop", {})


def clock(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``12 min 3 s``, ``5 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
