"""The same mining through a live server, vLLM's batch runner, and Ray: nothing is pretended."""

import asyncio
import shutil
import subprocess

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from esc import adapters, files, paths, policy_server
from esc.llm import Pool, allowed
from esc.llm_batch import choice_fields
from esc.plan_and_speak import NAMES
from esc.serving_environment import RAY_PYTHON, RAY_READY

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m"
ENGINES = ("live", "vllm", "ray")


def save_adapter(folder, model):
    """An adapter that has a mind of its own: random, and large enough to be seen."""
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    policy = get_peft_model(base, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.25)
    policy.save_pretrained(folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory, run, model):
    """A WORK folder with sets and the planner's adapter."""
    work = tmp_path_factory.mktemp("batches") / "live"
    built = run("-m", "data_builders", "build", "--esconv", "sample", "--work", str(work))
    assert built.returncode == 0, built.stderr
    save_adapter(work / paths.adapter(MODEL, "sp", "sft"), model)
    return work


def mined(run, work, *options):
    """Sample a dialogue's turns and route them; the rows of the samples."""
    of = ("--work", str(work), "--task", "sp")
    sampled = run("-m", "mining", "sample", *of, "--limit", "1", *options)
    assert sampled.returncode == 0, sampled.stderr[-3000:]
    routed = run("-m", "mining", "route", *of)
    assert routed.returncode == 0, routed.stderr
    return list(files.read_jsonl(work / paths.mining(MODEL) / "sp" / "samples.jsonl"))


@pytest.fixture(scope="module")
def live(first, run):
    """The samples of the live server, what it says without the adapter, its tokens of a choice."""
    started = run("-m", "serving", "start", "--work", str(first), "--port", "0")
    assert started.returncode == 0, started.stderr[-2000:]
    url = policy_server.running(MODEL, first).url
    try:
        rows = mined(run, first)
        bare, tokens = asyncio.run(asked_bare(url, first))
    finally:
        run("-m", "serving", "stop", "--work", str(first))
    return rows, bare, tokens


async def asked_bare(url, work):
    """(what the base model says to the same requests, the fields that keep a choice)."""
    pool = Pool([url], timeout=300, connections=8)
    calls = files.read_jsonl(work / paths.mining(MODEL) / "sp" / "calls.jsonl")

    async def one(row):
        body = {"model": adapters.BASE, "messages": row["messages"], "seed": row["seed"]}
        body |= row["sampling"] | row["constraint"] | tokens
        answer = await pool.post("/chat/completions", body)
        return row["record"], answer["choices"][0]["message"]["content"]

    try:
        tokens = allowed(await pool.paths_of("sp-sft", NAMES))
        asked = [one(row) for row in calls if "key" in row]
        return dict(await asyncio.gather(*asked)), tokens
    finally:
        await pool.close()


@pytest.fixture(scope="module")
def ray_environment(run):
    """Ray's environment, made where it is not there yet."""
    if not (paths.ROOT / RAY_READY).is_file():
        made = run("-m", "serving", "install", "--ray")
        assert made.returncode == 0, made.stderr[-2000:]


IN_RAY = """
import argparse, sys
sys.path.insert(0, "serving/in_ray")
import run_batch
told = run_batch.handed_on({"VLLM_X": "1", "VLLM_API_KEY": "k", "HF_TOKEN": "t", "HOME": "h"})
given = argparse.Namespace(model="m", served_model_name=["base"], lora_modules=None)
rows = [{"body": {"model": name}} for name in ("base", "sp-sft")]
print(told, run_batch.unknown(rows, given), sep="|")
"""


def test_ray_gets_no_key_and_takes_no_unknown_model_for_the_base(ray_environment):
    command = [str(paths.ROOT / RAY_PYTHON), "-c", IN_RAY]
    shown = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    last = shown.stdout.strip().splitlines()[-1:]
    assert last == ["{'VLLM_X': '1'}|sp-sft: no such model here"], shown.stderr[-2000:]


@pytest.fixture(scope="module")
def through(first, live, run, ray_environment):
    """The WORK folder and the samples of each engine."""
    found = {"live": (first, live[0])}
    for engine in ("vllm", "ray"):
        work = first.parent / engine
        (work / "data").mkdir(parents=True)
        # The built sets, without what the live run made.
        for path in [*first.glob("data/*_sft_*"), first / "data" / "manifest.json"]:
            shutil.copy(path, work / "data")
        shutil.copytree(first / "saves", work / "saves")
        found[engine] = (work, mined(run, work, "--batch", engine))
        assert policy_server.on_this_machine() == []
    return found


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_samples_have_the_ids_keys_and_form_of_the_live_servers(through, engine):
    def keys(work):
        calls = files.read_jsonl(work / paths.mining(MODEL) / "sp" / "calls.jsonl")
        return sorted(row["key"] for row in calls if "key" in row)

    (live, samples), (work, rows) = through["live"], through[engine]
    assert keys(work) == keys(live) and len(keys(live)) == len(samples) > 4
    shown = ("id", "sample", "seed", "gold_strategy", "status")
    assert [[row[name] for name in shown] for row in rows] == [
        [row[name] for name in shown] for row in samples
    ]
    assert [row.keys() for row in rows] == [row.keys() for row in samples]
    assert all(row["strategy"] in NAMES and not row["truncated"] for row in rows)


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_the_adapter_and_the_seed_answer_not_the_base(through, live, engine):
    """Other batches may sample differently here and there: most answers are the same."""
    said = {row["id"]: row["text"] for row in live[0]}
    rows = through[engine][1]
    same = sum(row["text"] == said[row["id"]] for row in rows)
    as_base = sum(row["text"] == live[1][row["id"]] for row in rows)
    assert same > 0.7 * len(rows) and same > as_base


@pytest.mark.parametrize("engine", ENGINES)
def test_the_router_makes_a_pair_of_every_wrong_strategy_whatever_the_engine(through, engine):
    work, rows = through[engine]
    pairs = list(files.read_jsonl(work / paths.mining(MODEL) / "sp" / "routed" / "pairs.jsonl"))
    wrong = [row["id"] for row in rows if row["strategy"] != row["gold_strategy"]]
    assert [pair["id"] for pair in pairs] == wrong and wrong
    live = files.read_jsonl(
        through["live"][0] / paths.mining(MODEL) / "sp" / "routed" / "pairs.jsonl"
    )
    assert {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in live}


def test_a_choices_tokens_are_those_the_server_tells(live):
    assert choice_fields(MODEL, NAMES) == live[2]


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_a_request_is_sent_as_to_the_server(through, live, engine):
    (shard,) = (through[engine][0] / paths.mining(MODEL) / "sp" / "batch").glob("*.requests.jsonl")
    for row in files.read_jsonl(shard):
        assert row["body"]["allowed_token_ids"] == live[2]["allowed_token_ids"]
    text = (shard.parent / adapters.FILE).read_text()
    assert text == (through["live"][0] / paths.server(MODEL) / adapters.FILE).read_text()
