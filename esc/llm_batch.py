"""Asking through files of requests, of the form of OpenAI's Batch API, instead of a live server.

``batch/NNNN.requests.jsonl`` in the run's folder asks what no stored answer tells, under the keys
and ids of live requests; who runs it leaves ``NNNN.answers.jsonl`` beside it. A record that asks
several things takes as many rounds. With BATCH=vllm, ray or openai ``python -m serving run-batch``
runs the shards; write leaves them to others, and read takes in what those have brought.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from esc import adapters, backbones, files, llm
from esc.files import EscError, Waiting
from esc.llm import Asks, Failure, Generation, Payload, Reason, Record, Result, RunStopped

# Requests of a shard: each costs a local engine its start, and a killed one at most one shard.
SHARD = 50_000
_BYTES = 150_000_000  # of a shard; hosted services take little more
# How a shard's files end; the last one is of a batch that a service was given.
REQUESTS, ANSWERS, STATE = ".requests.jsonl", ".answers.jsonl", ".batch.json"


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
        return frozenset(row["custom_id"] for row in files.read_jsonl(self.path(REQUESTS)))


class _Pending(Exception):
    """Raised to a task whose answer is to come: its record goes on in a later round."""


@dataclass(kw_only=True)
class BatchChat(Asks):
    """Asks models through files: what `llm.Chat` is for live servers."""

    folder: Path
    urls: Sequence[str]
    engine: str  # as in BATCH
    size: int  # requests of a shard
    model: str
    work: Path
    # What this round has to ask, by cache key, in the records' order.
    _pending: dict[str, Generation] = field(default_factory=dict, init=False)
    _failures: dict[str, Failure] = field(default_factory=dict, init=False)
    _ran: set[Shard] = field(default_factory=set, init=False)

    async def _answer(self, key: str, call: Generation) -> None:
        # What no batch file can ask is answered as by a live server that does not offer it.
        if call.answers:
            return
        if key in self._failures:
            raise self._failures[key]
        self._pending.setdefault(key, call)
        raise _Pending

    def rounds(
        self, records: Sequence[Record], work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises EscError where the engine stopped, and Waiting where others have to work first; what
        was answered until then is kept.
        """

        async def unless_pending(asks: Asks, record: Record) -> Any:
            try:
                return await work(asks, record)
            except _Pending:
                return None

        results = asyncio.run(self.run(records, unless_pending))
        cached = self.meter.cached
        while self._pending:
            if not self._take():
                self._have_run()
            self._pending.clear()
            results = asyncio.run(self.run(records, unless_pending))
        # Later rounds meet their own answers.
        self.meter.cached = cached
        return results

    def _shards(self) -> list[Shard]:
        """All of the run, oldest first."""
        names = [path.name.removesuffix(REQUESTS) for path in self.folder.glob(f"*{REQUESTS}")]
        return sorted(Shard(self.folder, int(name)) for name in names if name.isdecimal())

    def _take(self) -> bool:
        """Whether answers to what is pending, or final failures, lay beside the shards.

        A failure is final in the last shard that asks for it, where it is of this run or only
        brought answers are read. Raises EscError where an engine that ran left answers out.
        """
        failed: dict[str, Failure | RunStopped] = {}
        before = self.meter.answered
        for shard in self._shards():
            asked, answers = shard.ids & self._pending.keys(), shard.path(ANSWERS)
            failed = {key: error for key, error in failed.items() if key not in asked}
            told = files.read_jsonl(answers) if asked and answers.is_file() else ()
            for key, row in ((row.get("custom_id"), row) for row in told):
                if key not in asked:
                    continue
                asked -= {key}
                try:
                    self._keep(key, self._pending[key], _answer_in(row))
                    del self._pending[key]
                except (Failure, RunStopped) as error:
                    if shard in self._ran or self.engine == "read":
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
            self.meter.pay(self._pending[key].model, *why.used)
        return bool(failed) or self.meter.answered > before

    def _have_run(self) -> None:
        """Have what is pending answered; EscError or Waiting where that is not done here."""
        rest, todo = set(self._pending), []
        waiting = [shard for shard in self._shards() if not shard.path(ANSWERS).is_file()]
        # What a service was given is paid for, and waited for; of another shard that was answered
        # in part, as by a live server, the rest is asked in a new one.
        paid = [shard for shard in waiting if shard.path(STATE).is_file()]
        for shard in [*paid, *(shard for shard in waiting if shard not in paid)]:
            if shard.ids & rest if shard in paid else shard.ids <= rest:
                todo.append(shard)
                rest -= shard.ids
        if self.engine == "read":
            names = ", ".join(shard.path(REQUESTS).name for shard in todo[:10])
            raise Waiting(
                f"batch       {len(todo)} shards in {self.folder} have no answers yet ({names}): "
                "bring their answers files there, or BATCH=openai fetches those of its service; "
                f"{len(rest):,} requests are in no open shard: BATCH=write writes them"
            )
        self._check_engine(set(self._pending).difference(*(shard.ids for shard in paid)))
        todo += self._write([key for key in self._pending if key in rest])
        if self.engine == "write":
            raise Waiting(
                f"batch       {len(self._pending):,} requests in {len(todo)} shards wait in "
                f"{self.folder}\nnext        any engine that reads OpenAI batch files makes "
                f"NNNN{ANSWERS} of NNNN{REQUESTS} (docs/scaling.md has the lines for vLLM); then "
                "the same command with BATCH=read"
            )
        run(self.engine, self.model, self.work, self.urls, todo)
        self._ran.update(todo)

    def _check_engine(self, new: set[str]) -> None:
        """Raise EscError where the engine does not have what is asked, or it could cost too much.

        ``new`` are the requests that are not paid for yet.
        """
        urls, engine = self.urls, self.engine
        if engine == "openai":
            if not urls:
                raise EscError("BATCH=openai asks a hosted model: give BASE_URL, or use BATCH=vllm")
            most = sum(self.meter.most(self._pending[key]) for key in new)
            if self.meter.spent + most > self.meter.limit:
                raise RunStopped(
                    f"the {len(new):,} new requests could pass MAX_COST={self.meter.limit:g}; "
                    "nothing is sent: raise it, or LIMIT takes fewer"
                )
        if engine in ("vllm", "ray"):
            served = {adapters.BASE, *adapters.found(self.work, self.model)}
            # Under the same names another server may have other models.
            others = sorted({call.model for call in self._pending.values()} - served)
            if others or urls:
                raise EscError(
                    f"BATCH={engine} runs this WORK's own models here ({', '.join(sorted(served))})"
                    f", not {', '.join([*others, *urls])}: ask live, without BATCH, with "
                    "BATCH=openai at its service, or leave files with BATCH=write"
                )

    def _write(self, keys: Sequence[str]) -> Iterable[Shard]:
        """New shards that ask for ``keys``."""
        parts, room = list[list[bytes]](), 0
        for key in keys:
            row: Payload = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions"}
            row |= {"body": self._body(self._pending[key])}
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if not parts or len(parts[-1]) == self.size or room < len(line):
                parts, room = [*parts, []], _BYTES
            parts[-1].append(line)
            room -= len(line)
        first = max((shard.number for shard in self._shards()), default=0) + 1
        for number, lines in enumerate(parts, start=first):
            shard = Shard(self.folder, number)
            with files.atomic_writer(shard.path(REQUESTS)) as stream:
                stream.writelines(lines)
            yield shard

    def _body(self, call: Generation) -> Payload:
        """What a live server is sent; RunStopped where a service has no such constraint."""
        constraint = call.constraint
        if self.engine == "openai" and constraint and not constraint.schema:
            raise RunStopped(
                f"{self.urls[0]} does not know the constraint; use DECODE=free, or an engine with "
                "structured outputs, such as BATCH=vllm"
            )
        choice = constraint.choice if constraint else ()
        return call.body() | (choice_fields(self.model, choice) if choice else {})


def run(engine: str, model: str, work: Path, urls: Sequence[str], shards: Sequence[Shard]) -> None:
    """Leave answers beside the shards, by ``serving run-batch``; EscError says why it stopped."""
    command = [sys.executable, "-m", "serving", "run-batch", "--engine", engine]
    command += ["--model", model, "--work", str(work)]
    command += ["--base-url", urls[0]] if engine == "openai" else []
    command += ["--requests", *(str(shard.path(REQUESTS)) for shard in shards)]
    # It ends its engine when its input ends: so also when this process is killed.
    pipe: Any = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipe, stdout=sys.__stderr__, start_new_session=True) as runner:
        assert runner.stderr is not None
        told = runner.stderr.read().strip().splitlines() or ["the batch was killed"]
    if runner.returncode:
        raise EscError(told[-1].removeprefix("error: "))


def _answer_in(row: files.Row) -> Payload:
    """The answer in a line, as a live request has it; raises as one that fails does."""
    response, error = row.get("response") or {}, row.get("error")
    status, body = int(response.get("status_code") or 0), response.get("body")
    if status == 200 and not error:
        return llm.read_completion(body)
    failed = llm.refused(status, error or body, "the engine")
    if status < 400:
        is_late = isinstance(error, dict) and error.get("code") == "batch_expired"
        failed.kind = Reason.TIMEOUT if is_late else Reason.BAD_ANSWER
    raise failed


@cache
def choice_fields(model: str, options: tuple[str, ...]) -> Payload:
    """What `llm.Chat.paths_of` learns of a server of this kit, of a backbone's tokenizer alone."""
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    paths = []
    for option in options:
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": option}]
        count = len(tokenizer(option, add_special_tokens=False)["input_ids"])
        # The option's tokens and the one that ends the turn.
        paths.append(tuple(template.encode_oneturn(tokenizer, chat)[1][: count + 1]))
    return llm.allowed(paths)
