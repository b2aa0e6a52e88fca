"""One step of the kit as a user runs it, for what measures it."""

import os
import subprocess
import sys

from esc.exceptions import EscError


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
