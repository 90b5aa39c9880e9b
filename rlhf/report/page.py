"""From inputs to the page's view: what each section shows, and the rendering of the template (autoescape on)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf.common.yaml import write_yaml
from rlhf.report.comparisons import comparison_views, judge_rows, model_rows
from rlhf.report.dialogues import choose_dialogues
from rlhf.report.figures import evenly
from rlhf.report.inputs import Inputs, Row, read_messages
from rlhf.report.panels import evaluation_panels, ppo_groups, reward_panels, sft_panels, tax_panels
from rlhf.report.paper import FIGURE_10
from rlhf.report.presets import describe_preset
from rlhf.report.rows import data_view
from rlhf.settings.schema import Settings

HERE = Path(__file__).parent
STAGES = ("fetch", "prepare", "sft", "reward", "ppo", "gold", "evaluate")
_SAMPLE_PROMPTS, _SAMPLE_STEPS = 3, 6  # shown over training


def render(settings: Settings, inputs: Inputs, commit: str | None) -> str:
    """The whole page as HTML text."""
    evaluated = inputs.details["evaluate"]
    judged = comparison_views(settings, evaluated)
    return (
        environment()
        .get_template("template.html")
        .render(
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),  # ours, not data
            settings=settings,
            preset=describe_preset(settings),
            commit=commit,
            summaries=inputs.summaries,
            comparisons=[view for view in judged if view.judge == judged[0].judge],
            judged=judged,
            agreement=evaluated.get("agreement", []),
            judge_rows=judge_rows(evaluated),
            models=model_rows(judged, evaluated),
            tax_panels=tax_panels(inputs),
            data=data_view(inputs.summaries["prepare"], inputs.details["prepare"]),
            sft_panels=sft_panels(inputs),
            reward={stage: reward_panels(stage, inputs) for stage in ("reward", "gold")},
            most_wrong={
                stage: most_wrong(inputs.details[stage], stage) for stage in ("reward", "gold")
            },
            ppo_groups=ppo_groups(inputs),
            samples=samples_over_time(inputs.samples),
            evaluation_panels=evaluation_panels(inputs),
            paper=FIGURE_10,
            dialogues=choose_dialogues(
                inputs.comparisons, settings.report.dialogues, settings.seed
            ),
            settings_parts=settings_parts(settings),
            timings=timings(inputs),
        )
    )


def environment() -> Environment:
    """The templates beside this file, their filters, autoescape on."""
    found = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "percent": percent, "duration": duration, "signed": signed}
    return found


def most_wrong(details: Row, stage: str) -> list[Row]:
    """The pairs on which a reward model is most wrong (table 1), at most ten, their dialogues read."""
    pairs = []
    for position, pair in enumerate(details.get("most_wrong", [])[:10]):
        messages = pair["messages"]
        if isinstance(messages, str):
            messages = read_messages(messages, f"{stage}_details.json, most_wrong {position}")
        pairs.append({**pair, "messages": messages})
    return pairs


def samples_over_time(samples: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(prompt, kind, samples at evenly spaced iterations) of the first prompts that are followed through training."""
    by_prompt: dict[str, list[Row]] = {}
    for row in samples:
        by_prompt.setdefault(row["prompt"], []).append(row)
    chosen = list(by_prompt.items())[:_SAMPLE_PROMPTS]
    return [
        (prompt, str(rows[0].get("kind", "")), evenly(rows, _SAMPLE_STEPS))
        for prompt, rows in chosen
    ]


def settings_parts(settings: Settings) -> list[tuple[str, str]]:
    """Every setting as YAML text, one part a section; the loose keys come first."""
    content = settings.model_dump(mode="json", by_alias=True)
    loose = {key: value for key, value in content.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    return [
        (name, write_yaml(value).strip()) for name, value in {"general": loose, **sections}.items()
    ]


def timings(inputs: Inputs) -> list[Row]:
    """Seconds of each stage that recorded any, its share of the longest one, and tokens a second."""
    recorded = {
        stage: inputs.summaries[stage] for stage in STAGES if "seconds" in inputs.summaries[stage]
    }
    longest = max((float(summary["seconds"]) for summary in recorded.values()), default=0.0) or 1.0
    return [
        {
            "stage": stage,
            "seconds": float(summary["seconds"]),
            "share": float(summary["seconds"]) / longest,
            "rates": [
                (key, value)
                for key, value in sorted(summary.items())
                if key.endswith("tokens_per_second")
            ],
        }
        for stage, summary in recorded.items()
    ]


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart; other values as they are, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 10**digits and abs(value) < 1e9):
        return f"{value:,.0f}".replace(",", "\u202f")
    text = f"{value:.{digits}g}" if abs(value) < 1e-3 else f"{value:#.{digits}g}"
    return text.rstrip(".").replace("-", "−")


def signed(value: Any) -> str:
    """A score with its sign and two decimals, None as a dash."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage, None as a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
