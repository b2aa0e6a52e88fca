"""``python -m serving STEP``: install, start, stop, hold, run-batch, check-template, compose."""

import sys

from esc import cli

STEPS = {
    "install": ("install:main", "the serving environment, .venv-serve"),
    "start": ("server:main", "one server with the base and every adapter, in the background"),
    "stop": ("server:stop_main", "end that server"),
    "hold": ("server:hold_main", "a server for as long as the input stays open"),
    "run-batch": ("batch:main", "one file of requests through vLLM, or Ray with vLLM"),
    "check-template": ("template:main", "compare the server's token ids with LLaMA-Factory's"),
    "compose": ("compose:main", "SFT and DPO adapter into the one that is served"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("serving", STEPS))
