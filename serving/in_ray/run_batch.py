"""vLLM's batch runner on Ray Data: it runs inside Ray's environment, and imports nothing else.

    python run_batch.py FLAGS OF vllm run-batch -i REQUESTS -o ANSWERS

As many engines as the cluster's GPUs make up (one on a machine without any) share the requests.
RAY_ADDRESS names a cluster; without it one is started on this machine for this run. Paths must be
the same on all its machines. Prompts are tokenised here as a server does it, by the chat template
alone: Ray's own stage would add a second token for the beginning of a text.
"""

import functools
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from transformers import AutoTokenizer
from vllm import AsyncEngineArgs
from vllm.entrypoints.launchers.run_batch import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

_SENT = ("max_tokens", "temperature", "top_p", "seed", "allowed_token_ids")
_OURS = ("VLLM_", "HF_", "PYTHONPATH")
"""How the variables begin that an engine on another machine needs too."""
_SECRET = ("_KEY", "_TOKEN")
"""How those end that Ray must not have: it logs what it hands on."""


def engine_settings(given: Namespace) -> dict[str, Any]:
    """What the flags say of the engine, where they differ from vLLM's defaults."""
    plain = make_arg_parser(FlexibleArgumentParser()).parse_args(["-i", "", "-o", ""])
    others = {"model", "served_model_name"}
    names = [one.name for one in fields(AsyncEngineArgs) if one.name not in others]
    return {
        name: getattr(given, name)
        for name in names
        if hasattr(given, name) and getattr(given, name) != getattr(plain, name)
    }


def lines(path: str) -> Iterator[dict[str, Any]]:
    """The requests of a file."""
    with Path(path).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def served(given: Namespace) -> dict[str, str]:
    """Name to model or folder of everything that the flags serve."""
    adapters = {one.name: one.path for one in given.lora_modules or ()}
    return dict.fromkeys(given.served_model_name or [given.model], given.model) | adapters


def unknown(rows: list[dict[str, Any]], given: Namespace) -> str:
    """Why the requests cannot be run, or nothing."""
    names = {row["body"]["model"] for row in rows} - served(given).keys()
    return f"{', '.join(sorted(names))}: no such model here" if names else ""


def asked(request: dict[str, Any], given: Namespace, tokenizer: Any, template: str) -> Any:
    """What Ray's vLLM stage takes, of one line."""
    body = request["body"]
    prompt = tokenizer.apply_chat_template(
        body["messages"], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    sampling = {name: body[name] for name in _SENT if name in body}
    if "structured_outputs" in body:
        sampling["structured_outputs"] = body["structured_outputs"]
    elif "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        sampling["structured_outputs"] = {"json": json.dumps(schema)}
    return {
        "custom_id": request["custom_id"],
        "model": served(given)[body["model"]],
        "tokenized_prompt": tokenizer(prompt, add_special_tokens=False)["input_ids"],
        # As text: a column has one type, whatever the requests hold.
        "sampling": json.dumps(sampling),
    }


def prepared(row: dict[str, Any]) -> dict[str, Any]:
    """What the stage takes besides."""
    return {"sampling_params": json.loads(row["sampling"])}


def answered(row: dict[str, Any], *, ends: frozenset[int]) -> dict[str, Any]:
    """The line of an answer, as the batch runner writes it."""
    tokens = list(row["generated_tokens"])
    # The stage does not say why an answer ended; the token that ends a turn is among its own.
    finish = "stop" if tokens and int(tokens[-1]) in ends else "length"
    message = {"role": "assistant", "content": row["generated_text"]}
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": int(row["num_input_tokens"]),
            "completion_tokens": int(row["num_generated_tokens"]),
        },
    }
    return {"line": line(row["custom_id"], 200, body, None)}


def line(custom_id: str, status: int, body: Any, error: str | None) -> str:
    """One line of an answers file."""
    response = {"status_code": status, "request_id": f"ray-{custom_id}", "body": body}
    told = {"id": f"ray-{custom_id}", "custom_id": custom_id, "response": response}
    return json.dumps(told | {"error": error}, ensure_ascii=False)


def failed(row: dict[str, Any]) -> str:
    """The line of a request that the engine refused."""
    kind, _, reason = row["__inference_error__"].partition(": ")
    refused = kind in ("ValueError", "VLLMValidationError")
    return line(row["custom_id"], 400 if refused else 500, None, reason or kind)


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an engine on another machine gets."""
    return {
        name: text
        for name, text in environment.items()
        if name.startswith(_OURS) and not name.endswith(_SECRET)
    }


def processor_config(given: Namespace) -> tuple[vLLMEngineProcessorConfig, int]:
    """(how Ray runs the engines, how many of them)."""
    of_one = given.tensor_parallel_size * given.pipeline_parallel_size
    gpus = int(ray.cluster_resources().get("GPU", 0))
    settings = engine_settings(given)
    if gpus:
        count, place = max(gpus // of_one, 1), {}
    else:
        # Ray counts GPUs unless it is told what one engine takes.
        count, place = 1, {"placement_group_config": {"bundle_per_worker": {"CPU": 1}}}
    variables = handed_on(os.environ)
    config = vLLMEngineProcessorConfig(
        model_source=given.model,
        engine_kwargs=settings,
        batch_size=64,
        concurrency=(count, count),
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        # One request that is too long must not end the others.
        should_continue_on_error=True,
        runtime_env={"env_vars": variables},
        **place,
    )
    return config, count


def main() -> None:
    """Command line of the program."""
    given = make_arg_parser(FlexibleArgumentParser()).parse_args()
    requests = list(lines(given.input_file))
    if reason := unknown(requests, given):
        raise SystemExit(f"error: {reason}")
    # Logical: on a machine without a GPU the stages wait for one another on few cores.
    ray.init(**({} if "RAY_ADDRESS" in os.environ else {"num_cpus": 8, "include_dashboard": False}))
    config, engines = processor_config(given)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    template = Path(given.chat_template).read_text(encoding="utf-8")
    ends = frozenset(tokenizer.all_special_ids)
    processor = build_processor(
        config, preprocess=prepared, postprocess=functools.partial(answered, ends=ends)
    )
    rows = [asked(row, given, tokenizer, template) for row in requests]
    # Blocks enough for every engine, and of a few hundred requests.
    blocks = max(min(engines, len(rows)), len(rows) // 256)
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)
    with Path(given.output_file).open("w", encoding="utf-8") as stream:
        for row in processor(dataset).iter_rows():
            # Rows that failed pass the last step by.
            told = row.get("line") or failed(row)
            stream.write(told + "\n")


if __name__ == "__main__":
    main()
