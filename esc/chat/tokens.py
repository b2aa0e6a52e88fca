"""Token ids as the server makes them, by vLLM's ``/tokenize``.

AttemptFailed with NOT_OFFERED where an endpoint has no such route.
"""

from collections.abc import Sequence
from typing import Any

from esc.chat.failures import AttemptFailed, FailureKind
from esc.chat.message import Message
from esc.chat.transport import Endpoint

Tokens = tuple[int, ...]


async def tokens_of(endpoint: Endpoint, model: str, chat: Sequence[Message]) -> Tokens:
    """The ids the server makes of a chat, with the head of the answer to come."""
    body: dict[str, Any] = {"model": model, "messages": [message.wire() for message in chat]}
    if chat[-1].role == "assistant":
        body["add_generation_prompt"] = False
    return _ids(await endpoint.post(f"{endpoint.root}/tokenize", body))


async def room_after(endpoint: Endpoint, model: str, chat: Sequence[Message]) -> int:
    """The tokens that the model's context has left after a chat; 0 where the server tells none."""
    body = {"model": model, "messages": [message.wire() for message in chat]}
    try:
        answer = await endpoint.post(f"{endpoint.root}/tokenize", body)
        return int(answer["max_model_len"]) - int(answer["count"])
    except AttemptFailed as failed:
        if failed.kind is not FailureKind.NOT_OFFERED:
            raise
    except (KeyError, TypeError, ValueError):
        # An answer of another shape tells nothing either.
        pass
    return 0


def _ids(answer: Any) -> Tokens:
    try:
        return tuple(int(token) for token in answer["tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise AttemptFailed(
            FailureKind.NOT_OFFERED, "its /tokenize gives no tokens", transient=False
        ) from error


async def paths_of(endpoint: Endpoint, model: str, answers: Sequence[str]) -> list[Tokens]:
    """The tokens of every answer, each with the token that ends the turn; asked once."""
    key = (model, tuple(answers))
    async with endpoint.learning:
        if key not in endpoint.known:
            try:
                endpoint.known[key] = await _learn(endpoint, model, answers)
            except AttemptFailed as failed:
                if failed.kind is not FailureKind.NOT_OFFERED:
                    raise
                endpoint.known[key] = failed
        found: list[Tokens] | AttemptFailed = endpoint.known[key]
    if isinstance(found, AttemptFailed):
        raise found
    return found


async def choice_tokens(endpoint: Endpoint, model: str, options: Sequence[str]) -> dict[str, Any]:
    """Request fields that keep a choice to the tokens the options are usually written with.

    A constraint on the text alone also admits odd spellings, "I" and "nformation", which a model
    was never trained on and takes for other reasons. Nothing where the endpoint tells no tokens.
    """
    try:
        paths = await paths_of(endpoint, model, options)
    except AttemptFailed as failed:
        if failed.kind is not FailureKind.NOT_OFFERED:
            raise
        return {}
    return allowed(paths)


def allowed(paths: Sequence[Tokens]) -> dict[str, Any]:
    """Request fields that keep an answer to the tokens of these paths."""
    return {"allowed_token_ids": sorted({token for path in paths for token in path})}


def path_of(head: Tokens, whole: Tokens, count: int) -> Tokens | None:
    """The tokens of an answer of ``count`` tokens and the one that ends its turn.

    ``head`` is a chat with the head of the answer to come, ``whole`` that chat with the answer.
    None where the chat template does not continue a prompt.
    """
    path = whole[len(head) : len(head) + count + 1]
    return path if whole[: len(head)] == head and len(path) == count + 1 else None


async def _learn(endpoint: Endpoint, model: str, answers: Sequence[str]) -> list[Tokens]:
    asked = Message("user", "?")
    head = await tokens_of(endpoint, model, [asked])
    paths = []
    for answer in answers:
        whole = await tokens_of(endpoint, model, [asked, Message("assistant", answer)])
        alone = {"model": model, "prompt": answer, "add_special_tokens": False}
        count = len(_ids(await endpoint.post(f"{endpoint.root}/tokenize", alone)))
        path = path_of(head, whole, count)
        if path is None:
            raise AttemptFailed(
                FailureKind.NOT_OFFERED,
                "the server's chat template does not continue a prompt",
                transient=False,
            )
        paths.append(path)
    return paths
