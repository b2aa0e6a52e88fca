"""Speed figures as JSON, measured in one run, as ratios where a ratio says more.

    make bench ESCONV=path/to/ESConv.json

``build``: every SFT set, the whole command, against the bare cost of ``json.loads`` on the corpus
and ``json.dumps`` of the same rows (target at most 2.5). ``layer``: planner requests a second
through ``esc.llm`` on a real vLLM server, against all of them sent at once (target at least 0.9).
``prefixes``: prompt tokens that the server computes of 8 dialogues in the dialogue layout, to those
that the turn layout sends (target at most 0.2) and computes (at most 0.33), by the server's own
counters. ``cached``: requests of a prediction run that finds every answer stored (target 0).
``conversation``: the kit's own part of a turn with a simulated seeker, whose models answer at once.
``first_page``: seconds until the page of `make ui` is there (target 15).
``limits``: 500 questions, 256 at a time, to judges that refuse what is above 20 a second (lost:
target 0). ``failing``: 500 questions to two servers, of which one only fails (lost: target 0).
``memory``: peaks of build and route on made-up corpora of 1 and 10 times ESConv's size, in MiB.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from itertools import cycle, product
from pathlib import Path

import httpx2

from data_builders.build import SETS
from esc import cli, files, paths, step
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.judging import RANDOM
from esc.llm import Chat, Generation, Sampling, derived_seed
from esc.paths import EMBEDDED
from esc.plan_and_speak import chat_and_gold
from esc.prompts import Message
from esc.psych_errors import PsychError
from esc.step import DONE, RunFolder
from esc.strategies import Strategy
from serving import server

REPEATS, PROMPTS, QUESTIONS, MINED = 3, 96, 500, 8
DIALOGUES, TURNS, SAMPLES, VOCABULARY = 1300, 14, 3, 40_000
"""Of the made-up corpus: ESConv's size, the generator's samples, and different words there are."""
BARE_COST = """
import json, pathlib, sys, time
corpus, *sets = sys.argv[1:]
rows = [json.loads(line) for name in sets for line in open(name, encoding="utf-8")]
text = pathlib.Path(corpus).read_text(encoding="utf-8")
begin = time.perf_counter()
json.loads(text)
for row in rows:
    json.dumps(row, ensure_ascii=False)
print(time.perf_counter() - begin)
"""
# In a process between, which is small and has no other child: the peak of a process is never less
# than its parent's was.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def python(*arguments: str) -> str:
    """What ``python ARGUMENTS`` prints; EscError with its last line where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EscError(f"{' '.join(arguments[:3])} failed: {reason.removeprefix('error: ')}")
    return done.stdout


def seconds(work: Callable[..., object], *given: object) -> float:
    """How long it took."""
    begin = time.perf_counter()
    work(*given)
    return time.perf_counter() - begin


def build(corpus: str, work: Path) -> Row:
    """Median seconds of a full build and of the bare cost, and their ratio."""
    sets = [str(work / paths.sft_file(t, side, of)) for side in paths.SPLITS for t, of in SETS]
    command = ["-m", "data_builders", "build", "--esconv", corpus, "--work", str(work)]
    took, bare = [], []
    for _ in range(REPEATS):
        (work / paths.MANIFEST).unlink(missing_ok=True)
        took.append(seconds(python, *command))
        bare.append(float(python("-c", BARE_COST, corpus, *sets)))
    whole, least = statistics.median(took), statistics.median(bare)
    return {"seconds": whole, "bare_seconds": least, "ratio": whole / least}


def cached(work: Path) -> Row:
    """Requests sent and seconds of a prediction run in which every answer is stored."""
    command = ["-m", "eval", "predict", "--work", str(work), "--system", "decoupled"]
    command += ["--stage", "base", "--decode", "free", "--base-url"]
    with stub() as url:
        python(*command, url)
        before = _count(url)
        (work / paths.run(EMBEDDED, "decoupled", "base") / DONE).unlink()
        took = seconds(python, *command, url)
        return {"requests": _count(url) - before, "seconds": took}


def conversation(work: Path) -> Row:
    """Milliseconds of a conversation's turn, of 100 cards and 8 turns each, beside the models'."""
    cards, turns = work / "made_up_cards.json", 8
    listed = [{"id": f"card{n}", "situation": f"worry {n} of {n * 7}"} for n in range(100)]
    cards.write_text(json.dumps(listed))
    with stub() as url:
        command = ["eval", "converse", "--work", str(work), "--cards", str(cards)]
        command += ["--system", "decoupled", "--stage", "base", "--decode", "free"]
        command += ["--turns", str(turns), "--base-url", url, "--seeker", "m", "--seeker-base-url"]
        python("-m", *command, url)
        requests = _count(url)
    took = files.read_json(work / paths.conversations(EMBEDDED) / "decoupled_base" / DONE)[
        "seconds"
    ]
    return {"requests": requests, "milliseconds": 1000 * took / (len(listed) * turns)}


def first_page(work: Path) -> float:
    """Seconds from the start of `make ui`'s step until its page is there, without a server."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "eval", "ui", "--work", str(work), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        try:
            url = next(line.split()[1] for line in page.stdout if line.startswith("page"))
            httpx2.get(url, trust_env=False, timeout=60).raise_for_status()
            return time.perf_counter() - begin
        finally:
            page.kill()


def served(work: Path) -> Row:
    """``layer`` and ``prefixes``, of one real server."""
    with ExitStack() as stack:
        stack.callback(server.stop, EMBEDDED, work)
        url = server.start(EMBEDDED, work, port=0).url
        return {"layer": layer(work, url), "prefixes": prefixes(work, url)}


def prefixes(work: Path, url: str) -> Row:
    """Prompt tokens sent and computed of all turns of 8 dialogues, by task and layout.

    The server counts them itself. The two ratios are of the dialogue layout's computed tokens, to
    those that the turn layout sends and computes.
    """
    turns, found = gold_turns(work, "train", MINED), Row()
    for task, layout in product(("sp", "rg"), paths.LAYOUTS):
        chats = {turn.id: chat_and_gold(task, turn, layout)[0] for turn in turns}
        calls = [Generation(n, "plan", "base", chat, Sampling(1)) for n, chat in chats.items()]
        before = _counted(url)
        ask([url], calls, 32)
        sent, hits = (now - then for now, then in zip(_counted(url), before, strict=True))
        found[f"{task} {layout}"] = {"sent": sent, "computed": sent - hits, "hits": hits / sent}
    for task in ("sp", "rg"):
        new, usual = (found[f"{task} {layout}"] for layout in (paths.DIALOGUE, paths.TURN))
        of = {name: new["computed"] / usual[name] for name in ("sent", "computed")}
        found[task] = {"to_sent": of["sent"], "to_computed": of["computed"]}
    return found


def _counted(url: str) -> tuple[float, float]:
    """Prompt tokens that a server looked up in its prefix cache, and found there."""
    told = httpx2.get(f"{url.removesuffix('/v1')}/metrics", trust_env=False).text
    names = (f"vllm:prefix_cache_{one}_total" for one in ("queries", "hits"))
    queries, hits = (
        sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith(name))
        for name in names
    )
    return queries, hits


def layer(work: Path, url: str) -> Row:
    """Requests a second through the layer and all at once, alternated."""
    rows = list(files.read_jsonl(work / paths.sft_file("sp", "train")))[:PROMPTS]
    layered: list[float] = []
    bare: list[float] = []
    for number in range(REPEATS + 1):
        # Not the system prompt first: no run profits from another's prefix cache.
        calls, again = (
            [_call(row["id"], f"{number}{end}\n{row['instruction']}") for row in rows]
            for end in ("", ".")
        )
        layered.append(len(rows) / seconds(ask, [url], calls, 32))
        bare.append(len(rows) / seconds(at_once, url, again))
    # The first of all compiles.
    mine, most = statistics.median(layered[1:]), statistics.median(bare[1:])
    return {"per_second": mine, "at_once_per_second": most, "ratio": mine / most}


def asked(in_flight: int, *servers: str) -> Row:
    """What becomes of questions to stub servers with these options."""
    calls = [_call(str(number), "A question.") for number in range(QUESTIONS)]
    with ExitStack() as stack:
        urls = [stack.enter_context(stub(*options.split())) for options in servers]
        begin = time.perf_counter()
        lost = ask(urls, calls, in_flight)
        took = time.perf_counter() - begin
    return {"servers": servers, "lost": lost, "seconds": took}


def _call(record: str, text: str) -> Generation:
    return Generation(record, "plan", "base", (Message("user", text),), Sampling(4))


def ask(urls: Sequence[str], calls: Sequence[Generation], in_flight: int) -> int:
    """How many questions found no answer."""

    async def go() -> int:
        async with aclosing(Chat(urls, timeout=600, connections=in_flight)) as chat:
            await chat.run(calls, lambda asks, call: asks.ask(call), "bench")
        return chat.meter.failed

    return asyncio.run(go())


def at_once(url: str, calls: Sequence[Generation]) -> None:
    """The server's own limit: everything sent at once, by a bare HTTP client."""

    async def go() -> list[httpx2.Response]:
        everything: Row = {"timeout": 600, "limits": httpx2.Limits(), "trust_env": False}
        async with httpx2.AsyncClient(**everything) as client:
            posts = [client.post(f"{url}/chat/completions", json=call.body()) for call in calls]
            return await asyncio.gather(*posts)

    if any(answer.status_code != 200 for answer in asyncio.run(go())):
        raise EscError("requests of the bench's open loop failed")


@contextmanager
def stub(*options: str) -> Iterator[str]:
    """The address of a server that answers at once, or as its options say, while the block runs."""
    command = [sys.executable, "-m", "experiments.stub_server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.kill()


def _count(url: str) -> int:
    return int(httpx2.get(f"{url.removesuffix('/v1')}/count", trust_env=False).json())


def memory(work: Path, dialogues: int) -> Row:
    """Peak MiB of build and route on a made-up corpus, with samples and verdicts of every turn."""
    corpus, chooser = work / "made_up.json", random.Random(dialogues)
    work.mkdir()
    corpus.write_text(json.dumps([_dialogue(number, chooser) for number in range(dialogues)]))
    run = partial(python, "-c", MEASURED, sys.executable, "-m")
    built = run("data_builders", "build", "--esconv", str(corpus), "--work", str(work))
    _mine(work)
    routed = run("mining", "route", "--task", "rg", "--judge", RANDOM, "--work", str(work))
    return {"dialogues": dialogues, "build": float(built), "route": float(routed)}


def _dialogue(number: int, chooser: random.Random) -> Row:
    """A dialogue in the release's layout, of words as frequent and as rare as a language's."""
    said: list[Row] = []
    for turn, strategy in zip(range(TURNS), cycle(Strategy), strict=False):
        words = {"speaker": "seeker", "annotation": {}, "content": f"turn {turn} of {number}"}
        reply = {"speaker": "supporter", "content": f"answer {turn}, {number}"}
        said += [words, reply | {"annotation": {"strategy": strategy.value}}]
    # The k-th most frequent word is drawn about 1/k as often as the first (Zipf).
    situation = " ".join(f"word{int(VOCABULARY ** chooser.random())}" for _ in range(20))
    about = dict.fromkeys(("experience_type", "emotion_type", "problem_type"), "made up")
    return about | {"situation": situation, "survey_score": {}, "dialog": said}


def _mine(work: Path) -> None:
    """Samples of every train turn and a verdict on each, as the steps of mining leave them."""
    manifest = step.manifest(work)
    asked: Row = {"MODEL": EMBEDDED, "task": "rg", "VARIANT": None, "ROUND": 1, "LIMIT": None}
    asked |= {"LAYOUT": paths.TURN}
    asked |= {"SAMPLES": SAMPLES, "DECODE": "choice", "temperature": 0.7, "top_p": 0.95}
    asked |= {"sampler": "rg-sft", "weights": "made up", "data": step.train_set(manifest)}
    judged: Row = {"JUDGE": RANDOM, "BLIND": False}
    common = {"prompts": manifest.options["prompts"], "smoke": True}
    folder = work / paths.mining(EMBEDDED) / "rg"
    for place, name, options, made in (
        (folder, "samples.jsonl", asked, _sample),
        (folder / "judges" / RANDOM, "verdicts.jsonl", judged, _verdict),
    ):
        run = RunFolder(place, common | options, name)
        run.claim(force=False)
        turns = files.read_jsonl(work / paths.sft_file("rg", "train"))
        run.write((made(row, k) for row in turns for k in range(SAMPLES)), {}, complete=True)
        judged["samples"] = files.read_json(place / DONE)[name]["sha256"]


def _sample(row: Row, index: int) -> Row:
    told = {"id": row["id"], "sample": index, "seed": derived_seed(row["id"], index)}
    told |= {"gold_strategy": row["strategy"], "gold_response": row["output"], "status": "ok"}
    said = f"sample {index} of {row['id']}"
    return told | {"strategy": row["strategy"], "response": said, "text": said}


def _verdict(row: Row, index: int) -> Row:
    # Two of three hold an error: a turn has a pair, a reply too many and one without.
    error = next(one for one in PsychError if one.feeds == "rg") if index else PsychError.NONE
    told = {"id": row["id"], "sample": index, "judge": RANDOM, "status": "scored"}
    told |= {"retain": index > 0, "chosen_error": PsychError.NONE, "rejected_error": error}
    return told | dict.fromkeys(("chosen_explanation", "rejected_explanation"), "made up")


@cli.command(examples="  make bench ESCONV=path/to/ESConv.json")
def main(esconv: cli.Esconv = "sample") -> None:
    """Speed figures as JSON: build, layer, cached rerun, limited and failing judges, memory."""
    limited, told = "--latency 0.7 --rate 20", ("", "retry-after=1", "retry-after-ms=700")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        found = {
            "build": build(str(paths.SAMPLE) if esconv == "sample" else esconv, work / "built"),
            "cached": cached(work / "built"),
            "conversation": conversation(work / "built"),
            "first_page": first_page(work / "built"),
            **served(work / "built"),
            "limits": [asked(256, f"{limited} --told={how}") for how in told],
            "failing": [asked(64, f"--status {s}", "--latency 1") for s in (500, 502)],
            "memory": [memory(work / f"{n}", n) for n in (DIALOGUES, 10 * DIALOGUES)],
        }
    print(json.dumps(found, indent=1, default=float))
