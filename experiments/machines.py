"""Several machines in one plan: node 0 goes through it, the others join in each of its trainings.

Node 0 says in ``runs/<model>/plan/machines.json``, on a disk that all share, which training it is
at, and says it again every few seconds: so another machine knows that it lives. Each training is
torchrun's or LLaMA-Factory's own on all of them; here they only meet.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
        self._say()

    @contextmanager
    def at(self, step: Step) -> Iterator[None]:
        """Say that a training is going on."""
        # A training that is begun once more is another one.
        self._training = {"step": step.name, "begun": time.time_ns()}
        self._say()
        try:
            yield
        finally:
            self._training = None
            self._say()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self._say()

    def _say(self) -> None:
        with self._writing:
            said = {"training": self._training, "ended": self._ended.is_set()}
            # Whoever listens compares with what it read before, not with its own clock.
            files.write_json(self._path, {"said": time.time_ns(), **said})


def follow(
    path: Path,
    plan: Sequence[Step],
    make: Callable[[str, Mapping[str, str]], tuple[int, str]],
) -> int:
    """Join in every training of node 0's plan until that ends; ``path`` is where it says so.

    ``make`` runs a target with variables and gives its exit code and why it failed. Returns the
    exit code: 1 where a training failed here. Raises EscError where node 0 is not heard of.
    """
    by_name, joined, failed = {step.name: step for step in plan}, set[int](), list[str]()
    print(f"waiting for node 0's trainings ({path})", flush=True)
    for training in _trainings(path):
        step = by_name.get(training["step"])
        if step is None or training["begun"] in joined:
            continue
        joined.add(training["begun"])
        print(f"\n=== {step.name}: this machine's share of it", flush=True)
        code, why = make(step.target, step.variables)
        if code:
            failed.append(f"{step.name} ({why})")
    print(f"\n=== node 0's plan has ended; {len(joined)} trainings joined in")
    if failed:
        print(f"failed here: {', '.join(failed)}")
    return int(bool(failed))


def _trainings(path: Path) -> Iterator[Row]:
    """The training node 0 is at, each time it says so, until it ends."""
    # What stands there may be of an earlier plan: only news is a sign of life.
    known, patience = _read(path), float(nodes.PATIENCE)
    lost = time.monotonic() + patience
    while True:
        said = _read(path)
        if said is not None and said != known:
            known, patience = said, LOST
            if said["ended"]:
                return
            if said["training"]:
                yield said["training"]
            lost = time.monotonic() + patience
        elif time.monotonic() > lost:
            raise EscError(
                f"nothing new of node 0 in {path} for {patience:.0f} s: start the same command on "
                "all machines, with one WORK on a disk that they share"
            )
        time.sleep(BEAT / 10)


def _read(path: Path) -> Row | None:
    found: Row | None = files.read_json(path) if path.is_file() else None
    return found
