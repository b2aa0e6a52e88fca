"""vLLM's batch runner on Ray Data: it runs inside Ray's environment, and imports nothing else.

    python run_batch.py FLAGS OF vllm run-batch -i REQUESTS -o ANSWERS

As many engines as the cluster's GPUs make up (one on a machine without any) share the requests.
RAY_ADDRESS names a cluster; without it one is started on this machine for this run. Paths must be
the same on all its machines.
"""

import asyncio
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from vllm.entrypoints.launchers import run_batch
from vllm.utils.argparse_utils import FlexibleArgumentParser


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an engine on another machine gets; no key, since Ray logs them."""
    return {
        name: text
        for name, text in environment.items()
        if name.startswith(("VLLM_", "HF_", "PYTHONPATH")) and not name.endswith(("_KEY", "_TOKEN"))
    }


def _parsed(words: Sequence[str]) -> Namespace:
    given: Namespace = run_batch.make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    return given


def answered(requests: Mapping[str, Sequence[str]], words: Sequence[str]) -> dict[str, list[str]]:
    """The lines of answers to a block of requests, by one engine."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "requests.jsonl"), Path(folder, "answers.jsonl")
        asked.write_text("\n".join(requests["item"]), encoding="utf-8")
        asyncio.run(run_batch.main(_parsed([*words, "-i", str(asked), "-o", str(told)])))
        return {"item": told.read_text(encoding="utf-8").strip().split("\n")}


def main() -> None:
    """Command line of the program."""
    words = sys.argv[1:]
    given = _parsed(words)
    # Logical: on a machine without a GPU the stages wait for one another on few cores.
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 8, "include_dashboard": False}
    ray.init(runtime_env={"env_vars": handed_on(os.environ)}, **here)
    of_one = given.tensor_parallel_size * given.pipeline_parallel_size * given.data_parallel_size
    gpus = int(ray.cluster_resources().get("GPU", 0))
    takes = {"num_gpus": of_one} if gpus else {"num_cpus": 1}
    requests = Path(given.input_file).read_text(encoding="utf-8").strip().split("\n")
    engines = min(max(gpus // of_one, 1), len(requests))
    blocks = ray.data.from_items(requests, override_num_blocks=engines)
    answers = blocks.map_batches(answered, fn_kwargs={"words": words}, batch_size=None, **takes)
    with Path(given.output_file).open("w", encoding="utf-8") as stream:
        stream.writelines(row["item"] + "\n" for row in answers.iter_rows())


if __name__ == "__main__":
    main()
