"""Several machines in one plan: node 0 goes through it, the others join in each of its trainings.

Node 0 says in ``runs/<model>/plan/machines.json``, on a disk that all share, which training it is
at, and says it again every few seconds: so another machine knows that it lives. Each training is
torchrun's or LLaMA-Factory's own on all of them; here they only meet.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from esc import files, nodes
from esc.exceptions import EscError
from esc.files import Row
from experiments.plan import Step

FILE = "machines.json"
BEAT = 5.0
"""Seconds between two sayings."""
LOST = 12 * BEAT
"""Seconds without one, after which node 0 is taken to have died."""
SLACK = 3.0
"""Seconds that a training here may outlast node 0's: its next one opens its port later."""
Make = Callable[[str, Mapping[str, str], Callable[[], bool]], tuple[int, str]]
"""A make target, its variables, and whether to end it, to (exit code, why it failed)."""


class Told(AbstractContextManager["Told"]):
    """Node 0's word to the other machines, while the block runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._training: Row | None = None
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Told":
        self._say()
        self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._beating.join()
        self._try_to_say()

    @contextmanager
    def at(self, step: Step) -> Iterator[None]:
        """Say that a training is going on."""
        # A training that is begun once more is another one.
        self._training = {"step": step.name, "begun": time.time_ns()}
        self._try_to_say()
        try:
            yield
        finally:
            self._training = None
            self._try_to_say()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._try_to_say()

    def _try_to_say(self) -> None:
        # A disk may be full for a moment; the next beat says the same again.
        with suppress(OSError):
            self._say()

    def _say(self) -> None:
        with self._writing:
            said = {"training": self._training, "ended": self._ended.is_set()}
            # Whoever listens compares with what it read before, not with its own clock.
            files.write_json(self._path, {"said": time.time_ns(), **said})


def follow(path: Path, plan: Sequence[Step], make: Make) -> int:
    """Join in every training of node 0's plan until that ends; ``path`` is where it says so.

    Returns the exit code: 1 where a training failed here. Raises EscError where node 0 is not heard
    of.
    """
    by_name, joined, failed = {step.name: step for step in plan}, set[int](), list[str]()
    print(f"waiting for node 0's trainings ({path})", flush=True)
    heard = Heard(path)
    while not heard.ended:
        training = heard.training
        step = by_name.get(training["step"]) if training else None
        if training is None or step is None or training["begun"] in joined:
            time.sleep(BEAT / 10)
            heard.listen()
            heard.check_alive()
            continue
        joined.add(training["begun"])
        print(f"\n=== {step.name}: this machine's share of it", flush=True)
        # Where node 0 fails before the machines meet, this one would wait for it, and be taken for
        # a part of the next training.
        left = partial(heard.has_left, training)
        code, why = make(step.target, step.variables, left)
        if code:
            failed.append(f"{step.name} ({'node 0 has left it' if left() else why})")
        heard.listen()
    print(f"\n=== node 0's plan has ended; {len(joined)} trainings joined in")
    if failed:
        print(f"failed here: {', '.join(failed)}")
    return int(bool(failed))


class Heard:
    """What node 0 has said last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # What stands there may be of an earlier plan: only news is a sign of life.
        self._known = _read(path)
        self._patience: float = nodes.PATIENCE
        self._news = self._changed = time.monotonic()
        self.training: Row | None = None
        """The one it is at; None between trainings, and before it is heard of."""
        self.ended = False
        """Whether its plan has."""

    def listen(self) -> None:
        """Take in what is new."""
        said = _read(self._path)
        if said is None or said == self._known:
            return
        self._known, self._patience, self._news = said, LOST, time.monotonic()
        if said["training"] != self.training:
            self._changed = self._news
        self.training, self.ended = said["training"], said["ended"]

    def check_alive(self) -> None:
        """Raise EscError where nothing has been new for too long."""
        if time.monotonic() - self._news > self._patience:
            raise EscError(
                f"nothing new of node 0 in {self._path} for {self._patience:.0f} s: start the same "
                "command on all machines, with one WORK on a disk that they share"
            )

    def has_left(self, training: Row) -> bool:
        """Whether it is no longer at a training, and that has had time to end here too."""
        self.listen()
        if self.training == training:
            return False
        return time.monotonic() - self._changed > (SLACK if self.training else LOST)


def _read(path: Path) -> Row | None:
    found: Row | None = files.read_json(path) if path.is_file() else None
    return found
