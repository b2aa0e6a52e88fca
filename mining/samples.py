"""The finished samples of a mining, as the later steps find them: whole, and of the sets of now."""

from esc import built, files
from esc.exceptions import EscError
from esc.files import Row
from esc.run_folder import DONE, OPTIONS
from mining.candidates import SAMPLES
from mining.folders import Mining


def finished_samples(mining: Mining) -> tuple[Row, Row]:
    """(options the samples were drawn with, facts in their ``run.json``).

    Raises EscError where they are not there, not complete, changed since, or drawn from the turns
    of another corpus or split than the built sets hold now.
    """
    folder, again = mining.folder, mining.again()
    done = folder / DONE
    if not (folder / SAMPLES).is_file():
        raise EscError(f"{folder / SAMPLES} does not exist; {again} samples it")
    if not done.is_file():
        raise EscError(f"{folder / SAMPLES} is not complete; {again} asks for what is missing")
    facts: Row = files.read_json(done)
    options: Row = files.read_json(folder / OPTIONS)
    if not (_holds(options, "data", "LIMIT") and _holds(facts, SAMPLES)):
        raise EscError(
            f"{folder / OPTIONS} or {DONE} there is not of this step; move {folder} away, {again}"
        )
    asked = {
        "MODEL": mining.model,
        "task": mining.task,
        "VARIANT": mining.lineage.variant,
        "ROUND": mining.lineage.round,
    }
    if other := files.differences({name: options.get(name) for name in asked}, asked):
        raise EscError(
            f"{folder} holds the samples of another mining ({'; '.join(other)}); move it away, "
            f"{again} samples its own"
        )
    if facts[SAMPLES]["sha256"] != files.sha256(folder / SAMPLES):
        raise EscError(f"{folder / SAMPLES} was changed since it was written; {again} renews it")
    changed = files.differences(options["data"], built.train_set(built.manifest(mining.work)))
    if changed:
        raise EscError(
            f"the samples in {folder} are of other train turns ({'; '.join(changed)}); build those "
            f"sets again, or {mining.again(FORCE=1)}"
        )
    return options, facts


def _holds(found: object, *names: str) -> bool:
    return isinstance(found, dict) and found.keys() >= set(names)
