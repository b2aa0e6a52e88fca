"""Asking through files of requests, of the form of OpenAI's Batch API, instead of a live server.

``batch/NNNN.requests.jsonl`` in the run's folder asks what no stored answer tells, under the keys
and ids of live requests; who runs it leaves ``NNNN.answers.jsonl`` beside it. A record that asks
several things takes as many rounds. With BATCH=vllm, ray or openai ``python -m serving run-batch``
runs the shards; write leaves them to others, and read takes in what those have brought.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from esc import adapters, backbones, files, llm
from esc.files import EscError, Waiting
from esc.llm import CallFailed, Failure, FailureKind, Generation, Record, Reply, Result, RunStopped

SHARD = 5000
"""Requests of a shard: each costs a local engine its start, and a killed one at most one shard."""
REQUESTS, ANSWERS, STATE = ".requests.jsonl", ".answers.jsonl", ".batch.json"
"""How a shard's files end; the last one is of a batch that a service was given."""
_URL = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a user asks of batches: BATCH itself, the requests of a shard, whose models."""

    engine: str
    shard: int
    model: str
    work: Path


@dataclass(frozen=True, order=True)
class Shard:
    """A file of requests, ``0001.requests.jsonl``; its answers lie beside it."""

    folder: Path
    number: int

    def path(self, ending: str) -> Path:
        """One of its files."""
        return self.folder / f"{self.number:04}{ending}"

    @cached_property
    def ids(self) -> frozenset[str]:
        """The cache keys it asks for."""
        return frozenset(row["custom_id"] for row in _lines(self.path(REQUESTS)))


def _lines(path: Path) -> Iterator[files.Row]:
    """The rows of a file of a shard, but for a last line that a killed engine has torn."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = orjson.loads(line)
                yield row | {"custom_id": str(row["custom_id"])}
            except (ValueError, KeyError, TypeError) as error:
                if line.endswith(b"\n"):
                    raise EscError(
                        f"{path}, line {number}: no request or answer; delete that line, it is "
                        "asked for again"
                    ) from error


class _Pending(Exception):
    """Raised to a task whose answer is to come: its record goes on in a later round."""


@dataclass
class BatchChat:
    """Asks models through files, each thing once: what `llm.Chat` is for live servers."""

    batch: Batch
    urls: Sequence[str]
    folder: Path
    cache: llm.Cache
    weights: Mapping[str, str]
    """Served name to a hash of what answers under it."""
    meter: llm.Meter
    _pending: dict[str, Generation] = field(default_factory=dict)
    """What this round has to ask, by cache key, in the records' order."""
    _failures: dict[str, CallFailed] = field(default_factory=dict)
    _ran: set[Shard] = field(default_factory=set)

    async def ask(self, call: Generation) -> Reply:
        """The stored answer; CallFailed where it failed in this run.

        What no batch file can ask is answered as by a live server that does not offer it.
        """
        key = call.key(self.weights)
        stored = self.cache.get(key)
        if stored is not None or call.answers:
            return call.read(stored)
        if key in self._failures:
            raise self._failures[key]
        self._pending.setdefault(key, call)
        raise _Pending

    def run(
        self, records: Sequence[Record], work: Callable[[llm.Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises EscError where the engine stopped, and Waiting where others have to work first; what
        was answered until then is kept.
        """

        async def one(record: Record) -> Any:
            try:
                return await work(self, record)
            except CallFailed as failed:
                return Failure(failed.kind, failed.message, failed.attempts)
            except _Pending:
                return None

        async def all_records() -> list[Any]:
            return [await one(record) for record in records]

        while True:
            self._pending.clear()
            results = asyncio.run(all_records())
            if not self._pending:
                return results
            if not self._take():
                self._have_run()

    def _shards(self) -> list[Shard]:
        """All of the run, oldest first."""
        names = [path.name.removesuffix(REQUESTS) for path in self.folder.glob(f"*{REQUESTS}")]
        return sorted(Shard(self.folder, int(name)) for name in names if name.isdecimal())

    def _take(self) -> bool:
        """Whether answers to what is pending, or final failures, lay beside the shards.

        A failure is final in the last shard that asks for it, where it is of this run or only
        brought answers are read. Raises EscError for an answer that nobody asked for, and where an
        engine that ran left answers out.
        """
        failed: dict[str, CallFailed | RunStopped] = {}
        before = self.meter.answered
        for shard in self._shards():
            asked, answers = shard.ids & self._pending.keys(), shard.path(ANSWERS)
            failed = {key: error for key, error in failed.items() if key not in asked}
            for row in _lines(answers) if answers.is_file() else ():
                key = row["custom_id"]
                if key not in shard.ids:
                    raise EscError(
                        f"{answers} has an answer to {key}, which its requests do not ask: it is "
                        "of another run; move that file away"
                    )
                if key in asked:
                    asked -= {key}
                    try:
                        self._store(key, _answer_in(row, self._pending[key]))
                    except (CallFailed, RunStopped) as error:
                        if shard in self._ran or self.batch.engine == "read":
                            failed[key] = error
            if asked and shard in self._ran:
                raise EscError(
                    f"{answers} lacks {len(asked):,} of {len(shard.ids):,} answers; what is there "
                    "is kept: the same command asks for the others alone"
                )
        for key, why in failed.items():
            if isinstance(why, RunStopped):
                raise why
            self._failures[key] = why
            self.meter.failed += 1
            self.meter.pay(*why.used)
        return bool(failed) or self.meter.answered > before

    def _store(self, key: str, answer: llm.Payload) -> None:
        self.cache.put(key, self._pending.pop(key).audit(), answer)
        self.meter.answered += 1
        self.meter.pay(answer["prompt_tokens"], answer["completion_tokens"])

    def _have_run(self) -> None:
        """Have what is pending answered; EscError or Waiting where that is not done here."""
        engine, rest, todo = self.batch.engine, set(self._pending), []
        waiting = [shard for shard in self._shards() if not shard.path(ANSWERS).is_file()]
        # What a service was given is paid for, and waited for; of another shard that was answered
        # in part, as by a live server, the rest is asked in a new one.
        paid = [shard for shard in waiting if shard.path(STATE).is_file()]
        for shard in [*paid, *(shard for shard in waiting if shard not in paid)]:
            if shard.ids & rest if shard in paid else shard.ids <= rest:
                todo.append(shard)
                rest -= shard.ids
        if engine == "read":
            names = ", ".join(shard.path(REQUESTS).name for shard in todo[:10])
            raise Waiting(
                f"batch       {len(todo)} shards in {self.folder} have no answers yet ({names}): "
                "bring their answers files there, or BATCH=openai fetches those of its service; "
                f"{len(rest):,} requests are in no open shard: BATCH=write writes them"
            )
        self._check_engine(set(self._pending).difference(*(shard.ids for shard in paid)))
        todo += self._write([key for key in self._pending if key in rest])
        if engine == "write":
            raise Waiting(
                f"batch       {len(self._pending):,} requests in {len(todo)} shards wait in "
                f"{self.folder}\nnext        any engine that reads OpenAI batch files makes "
                f"NNNN{ANSWERS} of NNNN{REQUESTS} (docs/scaling.md has the lines for vLLM); then "
                "the same command with BATCH=read"
            )
        run(self.batch, self.urls, todo)
        self._ran.update(todo)

    def _check_engine(self, new: set[str]) -> None:
        """Raise EscError where the engine does not have what is asked, or it could cost too much.

        ``new`` are the requests that are not paid for yet.
        """
        engine, urls = self.batch.engine, self.urls
        if engine == "openai":
            if not urls:
                raise EscError("BATCH=openai asks a hosted model: give BASE_URL, or use BATCH=vllm")
            if self.meter.is_over(sum(self.meter.most(self._pending[key]) for key in new)):
                raise RunStopped(
                    f"the {len(new):,} new requests could pass MAX_COST={self.meter.limit:g}; "
                    "nothing is sent: raise it, or LIMIT takes fewer"
                )
        if engine in ("vllm", "ray"):
            served = {adapters.BASE, *adapters.found(self.batch.work, self.batch.model)}
            others = {call.model for call in self._pending.values()} - served
            # Under the same names another server may have other models.
            if others or urls:
                raise EscError(
                    f"BATCH={engine} runs this WORK's own models here ({', '.join(sorted(served))})"
                    f", not {', '.join([*sorted(others), *urls])}: without BATCH it is asked live, "
                    "with BATCH=openai in batches at its service, and BATCH=write leaves files"
                )

    def _write(self, keys: Sequence[str]) -> list[Shard]:
        """New shards that ask for ``keys``."""
        rows = [
            {"custom_id": key, "method": "POST", "url": _URL, "body": self._body(key)}
            for key in keys
        ]
        last = max((shard.number for shard in self._shards()), default=0)
        made: list[Shard] = []
        for begin in range(0, len(rows), self.batch.shard):
            made.append(Shard(self.folder, last + 1 + len(made)))
            with files.atomic_writer(made[-1].path(REQUESTS)) as stream:
                for row in rows[begin : begin + self.batch.shard]:
                    stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return made

    def _body(self, key: str) -> llm.Payload:
        """What a live server is sent; RunStopped where a service has no such constraint."""
        call = self._pending[key]
        constraint = call.constraint
        if self.batch.engine == "openai" and constraint and not constraint.schema:
            raise RunStopped(
                f"{self.urls[0]} does not know the constraint; use DECODE=free, or an engine with "
                "structured outputs, such as BATCH=vllm"
            )
        choice = constraint.choice if constraint else ()
        return call.body() | (choice_fields(self.batch.model, choice) if choice else {})


def run(batch: Batch, urls: Sequence[str], shards: Sequence[Shard]) -> None:
    """Leave answers beside the shards, by ``serving run-batch``; EscError says why it stopped."""
    command = [sys.executable, "-m", "serving", "run-batch", "--engine", batch.engine]
    command += ["--model", batch.model, "--work", str(batch.work)]
    command += ["--base-url", urls[0]] if batch.engine == "openai" else []
    command += ["--requests", *(str(shard.path(REQUESTS)) for shard in shards)]
    # It ends its engine when its input ends: so also when this process is killed.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=sys.__stderr__,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as runner:
        assert runner.stdin is not None
        assert runner.stderr is not None
        try:
            told = runner.stderr.read().strip().splitlines() or ["the batch was killed"]
        finally:
            runner.stdin.close()
    if runner.returncode:
        raise EscError(told[-1].removeprefix("error: "))


def _answer_in(row: files.Row, call: Generation) -> llm.Payload:
    """The answer in a line, as a live request has it.

    Raises CallFailed of the kind that a live one fails with, and RunStopped where every other
    request would fail alike: a key, a quota, an unknown model, a constraint that is ignored.
    """
    response, error = row.get("response"), row.get("error")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and not error:
        answer = llm.read_completion(body)
        call.check(answer)
        return answer
    failed = llm.refused(status if isinstance(status, int) else 0, error or body, "the engine")
    if not isinstance(status, int) or status < 400:
        is_late = isinstance(error, dict) and error.get("code") == "batch_expired"
        failed.kind = FailureKind.TIMEOUT if is_late else FailureKind.BAD_ANSWER
    raise failed


@cache
def choice_fields(model: str, options: tuple[str, ...]) -> llm.Payload:
    """What `llm.Pool.paths_of` learns of a server of this kit, of a backbone's tokenizer alone."""
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    paths = []
    for option in options:
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": option}]
        count = len(tokenizer(option, add_special_tokens=False)["input_ids"])
        # The option's tokens and the one that ends the turn.
        paths.append(tuple(template.encode_oneturn(tokenizer, chat)[1][: count + 1]))
    return llm.allowed(paths)
