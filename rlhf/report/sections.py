"""What single sections of the page show: wrong pairs, samples, settings, timings."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.common.yaml import write_yaml
from rlhf.report.figures import evenly_spaced
from rlhf.report.inputs import JsonObject, ReportInputs, read_messages
from rlhf.settings.schema import Settings

_MAX_WRONG_PAIRS = 10
_SAMPLED_PROMPTS = 3
_SAMPLES_PER_PROMPT = 6


@dataclass(frozen=True)
class SampleTimeline:
    """One prompt, and the policy's responses to it at evenly spaced iterations."""

    prompt: str
    kind: str
    samples: list[JsonObject]


@dataclass(frozen=True)
class StageTiming:
    """What a stage recorded of its speed.

    share: of the longest stage, in [0, 1]; rates: (key of the summary, tokens a second)
    """

    stage: str
    seconds: float
    share: float
    rates: list[tuple[str, float]]


def most_wrong(details: JsonObject, stage: str) -> list[JsonObject]:
    """The pairs on which a reward model is most wrong (table 1), at most ten.

    Raises DataError that names the pair whose dialogue cannot be read.
    """
    pairs = []
    for position, pair in enumerate(details.get("most_wrong", [])[:_MAX_WRONG_PAIRS]):
        messages = pair["messages"]
        # tables store a dialogue as JSON text
        if isinstance(messages, str):
            messages = read_messages(messages, f"{stage}_details.json, most_wrong {position}")
        pairs.append({**pair, "messages": messages})
    return pairs


def sample_timelines(samples: Sequence[JsonObject]) -> list[SampleTimeline]:
    """The first prompts that were followed through training."""
    by_prompt: dict[str, list[JsonObject]] = {}
    for sample in samples:
        by_prompt.setdefault(sample["prompt"], []).append(sample)

    timelines = []
    for prompt in list(by_prompt)[:_SAMPLED_PROMPTS]:
        rows = by_prompt[prompt]
        kind = str(rows[0].get("kind", ""))
        timelines.append(SampleTimeline(prompt, kind, evenly_spaced(rows, _SAMPLES_PER_PROMPT)))
    return timelines


def settings_sections(settings: Settings) -> list[tuple[str, str]]:
    """(name, YAML text) of each section of the settings; keys outside of any come first."""
    content = settings.model_dump(mode="json", by_alias=True)
    general = {key: value for key, value in content.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    return [
        (name, write_yaml(value).strip())
        for name, value in {"general": general, **sections}.items()
    ]


def stage_timings(inputs: ReportInputs) -> list[StageTiming]:
    """Of each stage that recorded its seconds, in the order of the stages."""
    timed = {name: row for name, row in inputs.summaries.items() if "seconds" in row}
    longest = max((float(summary["seconds"]) for summary in timed.values()), default=0.0)

    timings = []
    for stage, summary in timed.items():
        seconds = float(summary["seconds"])
        rates = [
            (key, value)
            for key, value in sorted(summary.items())
            if key.endswith("tokens_per_second")
        ]
        # where all stages took no time at all, no bar has a length
        timings.append(StageTiming(stage, seconds, seconds / (longest or 1.0), rates))
    return timings
