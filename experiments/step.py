"""One step of the kit as a user runs it, for what measures it."""

import os
import subprocess
import sys

from esc.exceptions import EscError

# In a process between, which is small and has no other child: the peak of a process is never less
# than its parent's was.
_MEASURED = """
import resource, subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def python(*arguments: str) -> str:
    """What ``python ARGUMENTS`` prints; EscError with its last line where it fails."""
    kept = {key: value for key, value in os.environ.items() if key != "ESCONV"}
    done = subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=kept
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise EscError(f"{' '.join(arguments[:3])} failed: {reason.removeprefix('error: ')}")
    return done.stdout


def measured(*arguments: str) -> tuple[float, float]:
    """(seconds, peak MiB of resident memory) of ``python ARGUMENTS``; EscError where it fails."""
    seconds, mib = python("-c", _MEASURED, sys.executable, *arguments).split()
    return float(seconds), float(mib)
