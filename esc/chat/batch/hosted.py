"""OpenAI's Batch API: a shard becomes a batch there, which is paid for once.

Before a batch is made, a note of what is to be made lies beside its shard; the answer to the
request that makes it may be lost by a kill. The batch then carries the shard's hash in its
metadata, by which the next run finds it instead of making another one.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import openai

from esc import files
from esc.chat.batch.rounds import Asked
from esc.chat.batch.shards import STATE, URL, Shard
from esc.chat.budget import Budget
from esc.chat.constraint import Choice, Regex
from esc.chat.failures import RunStopped
from esc.chat.policy import Call
from esc.chat.request import Payload
from esc.chat.transport import api_key, checked, is_loopback, split_query
from esc.exceptions import EscError
from esc.visible import visible

T = TypeVar("T")
LARGEST = 50_000
"""Requests that the Batch API takes in one file."""
_ENDPOINT: Literal["/v1/chat/completions"] = URL
_MARK = "shard_sha256"
POLL_SECONDS = 30.0
"""Between two looks at the batches."""
_ENDED = ("completed", "failed", "expired", "cancelled")
_ON_ITS_WAY = ("validating", "in_progress", "finalizing", "cancelling")


class _NotRun(EscError):
    """A batch that its service did not run."""


class Hosted:
    """A service with OpenAI's Batch API."""

    writes = True

    def __init__(self, url: str, budget: Budget) -> None:
        self._url, query = split_query(checked(url))
        self._budget = budget
        self._key = api_key(self._url)
        self._client = openai.OpenAI(
            base_url=self._url,
            default_query=query,
            api_key=self._key,
            max_retries=5,
            http_client=openai.DefaultHttpxClient(trust_env=not is_loopback(self._url)),
        )

    def body(self, call: Call[Any]) -> Payload:
        """The request as it is sent live; RunStopped where it has vLLM's own constraint."""
        constraint = getattr(call, "constraint", None)
        if isinstance(constraint, Choice | Regex):
            raise RunStopped(
                f"{self._url} does not know the constraint ({type(constraint).__name__}); "
                "use DECODE=free, or an engine with structured outputs, such as BATCH=vllm"
            )
        return call.body() or {}

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Make a batch of each shard that has none, and wait for the answers of all.

        Raises EscError where the service refuses one, when the others have ended, or where
        MAX_COST forbids the new ones.
        """
        new = [shard for shard in shards if not shard.beside(STATE).is_file()]
        for shard in new:
            if len(shard.ids) > LARGEST:
                raise EscError(
                    f"{shard.requests} has more than {LARGEST:,} requests; delete it, and it is "
                    f"written anew with SHARD={LARGEST}"
                )
        refused: list[_NotRun] = []
        with self._afforded(new, pending), self._told():
            made = {shard: self._batch_of(shard) for shard in shards}
            while made:
                for shard, identity in list(made.items()):
                    try:
                        if self._fetched(shard, identity):
                            del made[shard]
                    except _NotRun as error:
                        refused.append(error)
                        del made[shard]
                if made:
                    time.sleep(POLL_SECONDS)
        if refused:
            raise refused[0]

    @contextmanager
    def _afforded(self, shards: Sequence[Shard], pending: Asked) -> Iterator[None]:
        """Set aside what the shards can cost; RunStopped where that is more than is left."""
        reserved = 0.0
        try:
            for key in (key for shard in shards for key in shard.ids):
                most = self._budget.reserve(*pending[key].size())
                if most is None:
                    raise RunStopped(
                        f"the {sum(len(one.ids) for one in shards):,} new requests could pass "
                        f"MAX_COST={self._budget.limit:g}; nothing is sent: raise it, or LIMIT "
                        "takes fewer"
                    )
                reserved += most
            yield
        finally:
            self._budget.settle(reserved, 0, 0)

    def _batch_of(self, shard: Shard) -> str:
        """The id of the shard's batch, made now where there is none."""
        state = shard.beside(STATE)
        known = files.read_json(state) if state.is_file() else {}
        if known and known["url"] != self._url:
            raise EscError(f"{state} is of {known['url']}; ask there, or move {shard.name}.* away")
        if not known:
            digest = files.sha256(shard.requests)
            files.write_json(state, {"url": self._url, _MARK: digest, "batch": None})
            identity = self._make(shard.requests, digest)
        elif known["batch"]:
            return str(known["batch"])
        else:
            digest = known[_MARK]
            identity = self._made_before(digest) or self._make(shard.requests, digest)
        files.write_json(state, {"url": self._url, _MARK: digest, "batch": identity})
        return identity

    def _make(self, requests: Path, digest: str) -> str:
        with requests.open("rb") as stream:
            uploaded = self._object(self._client.files.create(file=stream, purpose="batch"))
        # Asking again could make a second one: a lost answer is found by the mark.
        once = self._client.with_options(max_retries=0)
        made = self._object(
            once.batches.create(
                input_file_id=uploaded.id,
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={_MARK: digest},
            )
        )
        told = visible(f"batch       {requests}: {made.id} at {self._url}")
        print(told, file=sys.stderr, flush=True)
        return made.id

    def _made_before(self, digest: str) -> str | None:
        for batch in self._object(self._client.batches.list(limit=100)):
            if (batch.metadata or {}).get(_MARK) == digest:
                return batch.id
        return None

    def _fetched(self, shard: Shard, identity: str) -> bool:
        """Whether the batch has ended; then its answers lie beside the shard."""
        batch = self._object(self._client.batches.retrieve(identity))
        if batch.status in _ON_ITS_WAY:
            return False
        if batch.status not in _ENDED:
            raise EscError(f"{self._url}: batch {identity} is {batch.status!r}, which is no state")
        found = [one for one in (batch.output_file_id, batch.error_file_id) if one]
        if batch.status == "failed" or not found:
            # Nothing ran, and nothing is paid: the next run makes another.
            shard.beside(STATE).unlink()
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            reason = "; ".join(str(error.message) for error in errors) or "no reason is given"
            raise _NotRun(
                f"{self._url}: batch {identity} of {shard.requests} {batch.status}: {reason}; the "
                "same command makes it anew"
            )
        with files.atomic_writer(shard.answers) as stream:
            for one in found:
                text = self._client.files.content(one).content
                stream.write(text if text.endswith(b"\n") or not text else text + b"\n")
        return True

    def _object(self, found: T) -> T:
        """What the service answered; EscError where the client could not read it."""
        if isinstance(found, str):
            raise EscError(f"{self._url} answers no JSON; a base URL mostly ends in /v1")
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell of a failed request in one line, without the key."""
        try:
            yield
        except openai.APIStatusError as error:
            reason = f"{error.status_code}: {error.message}"
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)
        except json.JSONDecodeError as error:
            reason = f"no JSON ({error})"
        else:
            return
        if self._key != "none":
            reason = reason.replace(self._key, "***")
        raise EscError(
            f"{self._url}: {' '.join(reason.split())[:300]}; batches that were made are noted and "
            "not made again: the same command goes on"
        )
