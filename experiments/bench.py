"""Speed figures as JSON, measured in one run, as ratios where a ratio says more.

    make bench ESCONV=path/to/ESConv.json

``build``: every SFT set from the corpus, the whole command, against the bare cost of
``json.loads`` on the input and ``json.dumps`` of the same rows (median of three alternated runs,
target at most 2).
``check``: rows a second of the token check on all nine sets. ``chat``: the LLM layer and the server
(see ``bench_chat``; it trains one step and serves, twenty minutes on two slow cores). ``mining``:
routing and file writing of 100,000 stored candidates (see ``bench_mining``). ``memory``: peaks of
the builder and the router at 1, 10 and 50 times the size of ESConv (see ``bench_memory``; four to
six minutes on two cores and 8 GB of disk). ``metrics``: all automatic metrics of nine systems with
their intervals (see ``bench_metrics``). ``limits``: questions to judges that limit their rate, and
to two servers of which one fails (see ``bench_limits``; four minutes). Without ESCONV it measures
the sample corpus, whose few rows mostly show how long Python takes to start.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from esc import cli, files, paths
from esc.exceptions import EscError
from esc.prompts import TASKS
from experiments import bench_chat, bench_limits, bench_memory, bench_metrics, bench_mining
from experiments.step import measured, python

REPEATS = 3
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


def build(corpus: Path, work: Path) -> dict[str, Any]:
    """Seconds, ratio, rows a second and peak memory of a full build of ``corpus``."""
    sets = [str(work / paths.sft_file(t, s)) for t in TASKS for s in paths.SPLITS]
    command = ["-m", "data_builders", "build", "--esconv", str(corpus)]
    built: list[float] = []
    bare: list[float] = []
    for _ in range(REPEATS):
        paths.data_manifest(work).unlink(missing_ok=True)
        begin = time.perf_counter()
        python(*command, "--work", str(work))
        built.append(time.perf_counter() - begin)
        bare.append(float(python("-c", BARE_COST, str(corpus), *sets)))
    paths.data_manifest(work).unlink()
    _, peak = measured(*command, "--work", str(work))
    manifest = files.read_json(paths.data_manifest(work))
    rows = sum(facts["rows"] for facts in manifest["sets"].values())
    seconds = statistics.median(built)
    return {
        "rows": rows,
        "seconds": round(seconds, 3),
        "bare_json_seconds": round(statistics.median(bare), 3),
        "ratio": round(seconds / statistics.median(bare), 2),
        "rows_per_second": round(rows / seconds),
        "peak_memory_mib": round(peak),
    }


def check(work: Path, rows: int) -> dict[str, Any]:
    """Seconds and rows a second of the token check, the start of LLaMA-Factory included."""
    begin = time.perf_counter()
    python("-m", "data_builders", "check", "--work", str(work))
    seconds = time.perf_counter() - begin
    return {"rows": rows, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds)}


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m experiments bench", description=__doc__, examples="  make bench ESCONV=path"
    )
    parser.add_argument(
        "--esconv", type=cli.optional, help="corpus file; default: the sample corpus"
    )
    esconv = parser.parse_args(argv).esconv
    if esconv and not Path(esconv).is_file():
        raise EscError(f"ESCONV={esconv}: no such file; the bench takes ESConv.json itself")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        measured = build(Path(esconv) if esconv else paths.SAMPLE, work)
        result = {
            "corpus": Path(esconv).name if esconv else "sample corpus",
            "cores": os.cpu_count(),
            "build": measured,
            "check": check(work, measured["rows"]),
            "mining": bench_mining.measure(work / "mining", bench_chat.stub),
            "memory": bench_memory.measure(work / "memory"),
            "metrics": bench_metrics.measure(work / "metrics"),
            "limits": bench_limits.measure(bench_chat.stub),
            "chat": bench_chat.measure(work, esconv or "sample"),
        }
    print(json.dumps(result, indent=2))
