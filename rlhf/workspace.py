"""Where everything lies in a workspace: names that stages, DVC and readers share."""

from dataclasses import dataclass
from pathlib import Path

# in a directory of checkpoints: its run wrote all outputs
FINISHED = "finished"
# as this, of a run that may be lengthened
KEPT = "kept"
# in the directory of a reward model
HEAD_FILE = "scalar_head.safetensors"
# all that the model directory of a stage that is off holds
OFF_FILE = "off.json"


@dataclass(frozen=True)
class Workspace:
    """Paths below one root (the directory that holds params.yaml)."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """The settings file."""
        return self.root / "params.yaml"

    @property
    def raw(self) -> Path:
        """What `fetch` brought, one directory per use (`sft`, `preferences`, ...)."""
        return self.root / "data" / "raw"

    @property
    def prepared(self) -> Path:
        """The parquet tables of `prepare`."""
        return self.root / "data" / "prepared"

    @property
    def comparisons(self) -> Path:
        """Every judged pair of responses."""
        return self.root / "data" / "evaluation" / "comparisons.parquet"

    @property
    def answer_cache(self) -> Path:
        """What endpoints answered: outside of DVC's outs and of git, so that nothing is paid for twice."""
        return self.root / ".answers" / "answers.db"

    @property
    def votes(self) -> Path:
        """People's votes, as `rlhf annotate` keeps them: outside of DVC's outs and of git."""
        return self.root / ".annotation" / "votes.db"

    def model(self, name: str) -> Path:
        """A model directory: base, sft, reward, dpo, process, policy or gold."""
        return self.root / "models" / name

    def metrics(self, stage: str) -> Path:
        """A stage's flat summary."""
        return self.root / "metrics" / f"{stage}.json"

    def key_figures(self, stage: str) -> Path:
        """The few of a stage's figures that DVC's tables show."""
        return self.root / "metrics" / f"{stage}_key.json"

    def steps(self, stage: str) -> Path:
        """A stage's step-by-step log."""
        return self.root / "metrics" / f"{stage}.jsonl"

    def plot_data(self, stage: str) -> Path:
        """The step log as DVC's plots read it."""
        return self.root / "metrics" / f"{stage}_steps.json"

    def samples(self, stage: str) -> Path:
        """What the model said during training, JSON lines: step, prompt, response and scores."""
        return self.root / "metrics" / f"{stage}_samples.jsonl"

    def details(self, stage: str) -> Path:
        """What a stage found beyond flat numbers: histograms, calibration bins, the most wrong pairs."""
        return self.root / "metrics" / f"{stage}_details.json"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.root / "reports" / "index.html"

    @property
    def checkpoints(self) -> Path:
        """Resume checkpoints: outside of DVC's outs and of git, one directory per stage and fingerprint."""
        return self.root / ".checkpoints"

    def finished_checkpoints(self, *, but: str) -> list[Path]:
        """Checkpoints that nobody needs once their stage's outputs are kept; `but` is left out.

        Those of runs that did not finish stay, of other settings too; and those kept to be lengthened.
        """
        return [
            mark.parent
            for mark in self.checkpoints.glob(f"*/*/{FINISHED}")
            if mark.parents[1].name != but
        ]

    def unfinished_checkpoints(self, stage: str) -> list[Path]:
        """The newest checkpoint of each of a stage's runs that did not come to their end."""
        newest = {path.parent: path for path in sorted(self.checkpoints.glob(f"{stage}/*/step-*"))}
        marks = (FINISHED, KEPT)
        return sorted(
            path for run, path in newest.items() if not any((run / mark).exists() for mark in marks)
        )

    @property
    def logs(self) -> Path:
        """What servers and stages say: outside of DVC's outs and of git."""
        return self.root / "logs"

    @property
    def failures(self) -> Path:
        """What a failed stage leaves to look at: outside of DVC's outs and of git."""
        return self.root / ".failures"
