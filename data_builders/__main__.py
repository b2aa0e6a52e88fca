"""``python -m data_builders STEP``: inspect, build, preference, check, stats, replies …"""

import sys

from esc import cli

STEPS = {
    "inspect": ("inspect:main", "what a corpus file holds, and a mapping to start from"),
    "build": ("build:main", "the SFT sets from ESConv, with a manifest"),
    "preference": ("preference:main", "mined pairs as DPO and KTO sets, registered"),
    "check": ("check:main", "every row through LLaMA-Factory's converter, template and tokenizer"),
    "stats": ("stats:main", "Table 1, Table 6 and Figure 8 beside the paper's numbers"),
    "replies": ("build:replies_main", "a corpus's own replies in the form of predictions"),
    "registry": ("registry:main", "dataset_info.json, here or added to another checkout's"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("data_builders", STEPS))
