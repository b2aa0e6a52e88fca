"""Where a mining keeps what: the folder listing tells the pipeline.

``runs/<model>/mining[_variant][_rN]/<task>/`` holds ``samples.jsonl``, under ``judges/<judge>/``
each judge's ``verdicts.jsonl``, and under ``routed/`` what became of every sample.
"""

from dataclasses import dataclass
from pathlib import Path

from esc import adapters, backbones, commands, files, paths
from esc.lineage import Lineage
from esc.run_folder import OPTIONS


@dataclass(frozen=True, slots=True)
class Mining:
    """One mining of one task."""

    work: Path
    model: str
    task: str
    lineage: Lineage
    """As `Lineage.mining`."""

    @property
    def folder(self) -> Path:
        """Of the samples."""
        return self.work / paths.mining(self.model, self.lineage) / self.task

    def judged(self, slug: str) -> Path:
        """Of one judge's verdicts."""
        return self.folder / "judges" / slug

    @property
    def routed(self) -> Path:
        """Of the routes and pairs."""
        return self.folder / "routed"

    @property
    def no_pairs(self) -> Path:
        """What routing leaves where no pair came out; those that lie there are then of before."""
        return self.work / paths.no_pairs(self.model, self.task, self.lineage)

    @property
    def sampler(self) -> str:
        """The served name of the policy that is sampled: SFT, or what the round before trained."""
        return adapters.start(self.task, self.lineage)

    def again(self, **variables: object) -> str:
        """The make command that goes on with this mining as it was begun."""
        path = self.folder / OPTIONS
        begun = files.read_json(path) if path.is_file() else {}
        options = begun if isinstance(begun, dict) else {}
        as_begun = {name: options.get(name) for name in ("LIMIT", "SAMPLES")}
        if options.get("DECODE") != backbones.get(self.model).decode:
            as_begun["DECODE"] = options.get("DECODE")
        return self.make("mine", **as_begun, **variables)

    def step(self, name: str) -> str:
        """The command of a step of this mining that make does not have."""
        own = {key.lower(): value for key, value in self.lineage.variables.items()}
        return commands.step(
            "mining", name, work=self.work, model=self.model, task=self.task, **own
        )

    def make(self, target: str, **variables: object) -> str:
        """The make command of a step of this mining."""
        return commands.make(
            f"{target}-{self.task}",
            work=self.work,
            model=self.model,
            **self.lineage.variables,
            **variables,
        )
