"""The server between the trainings of a plan: started before the first step that asks it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from esc import paths, policy_server
from experiments.outcome import Outcome, State
from experiments.plan import Step

Make = Callable[[str, Mapping[str, str]], tuple[int, str]]
"""A make target and its variables to (exit code, why it failed)."""


class OwnServer:
    """One server of this kit, or none where requests go elsewhere."""

    def __init__(
        self, make: Make, model: str, work: Path, seen: Callable[[Outcome], None], *, wanted: bool
    ) -> None:
        """``seen`` is told of every start."""
        self._make, self._model, self._work = make, model, work
        self._seen, self._wanted = seen, wanted
        self._up = self._failed = False

    def ready(self, step: Step) -> bool:
        """Whether the step may run: with the server it asks, or with none beside a training."""
        if not self._wanted:
            return True
        if not step.served:
            self.stop()
            self._failed = False
            return True
        # One that has ended since is started again.
        self._up = self._up and self.alive()
        if not self._up and not self._failed:
            self._start()
        return self._up

    def alive(self) -> bool:
        """Whether it still runs; true where requests go elsewhere."""
        return not self._wanted or policy_server.running(self._model, self._work) is not None

    @property
    def log(self) -> Path:
        """What it has said."""
        return self._work / paths.server(self._model) / policy_server.LOG

    def stop(self) -> None:
        """End it."""
        if self._wanted and policy_server.running(self._model, self._work):
            self._make("stop", {})
        self._up = False

    def _start(self) -> None:
        # One that a killed run has left may hold older adapters.
        self.stop()
        print("\n=== serve: the base and every adapter, for the steps that follow", flush=True)
        begin = time.monotonic()
        code, why = self._make("serve", {"PORT": "0"})
        seconds = time.monotonic() - begin
        self._up, self._failed = code == 0, code != 0
        state = State.FAILED if code else State.RAN
        self._seen(Outcome("serve", "one vLLM server", state, seconds, why))
