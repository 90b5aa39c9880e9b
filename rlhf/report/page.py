"""The page of one run: what each section shows, and the rendering of the template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf.report.comparisons import comparison_views, judge_rows, model_rows
from rlhf.report.data_summary import data_view
from rlhf.report.dialogues import select_dialogues
from rlhf.report.formats import FILTERS
from rlhf.report.inputs import ReportInputs
from rlhf.report.panels import (
    dpo_panels,
    evaluation_panels,
    ppo_groups,
    process_panels,
    reward_panels,
    sft_panels,
    tax_panels,
)
from rlhf.report.paper import FIGURE_10
from rlhf.report.presets import nearest_preset
from rlhf.report.scored import words_of
from rlhf.report.sections import most_wrong, sample_timelines, settings_sections, stage_timings
from rlhf.settings.schema import Settings

_HERE = Path(__file__).parent
_RANKING_STAGES = ("reward", "gold")


def render(
    settings: Settings,
    inputs: ReportInputs,
    commit: str | None,
    root: Path,
    outdated: Sequence[str] = (),
) -> str:
    """The whole page as HTML text.

    root: the workspace, whose models are not read; outdated: why figures are not of these settings
    """
    return render_template(
        "page.html",
        settings=settings,
        preset=nearest_preset(settings),
        commit=commit,
        outdated=outdated,
        summaries=inputs.summaries,
        **_evaluation(settings, inputs),
        **_training(settings, inputs),
        **words_of(settings, root),
        data=data_view(inputs.summaries["prepare"], inputs.details["prepare"]),
        timings=stage_timings(inputs),
        settings_sections=settings_sections(settings),
    )


def render_template(name: str, **content: Any) -> str:
    """Fill a template of this folder; text in `content` is escaped, the style sheet is added."""
    # a name that a template misspells is an error, not an empty place on the page
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    # not escaped: the style sheet is part of the program, not data
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(style=style, **content)


def _evaluation(settings: Settings, inputs: ReportInputs) -> dict[str, Any]:
    """What the headline, the evaluation section and the dialogues show."""
    details = inputs.details["evaluate"]
    views = comparison_views(settings, details)
    return {
        "comparisons": views,
        # bars are drawn for the first judge alone; the tables show every judge
        "headline_comparisons": [view for view in views if view.judge == views[0].judge],
        "agreement": details.get("agreement", []),
        "judge_rows": judge_rows(details),
        "models": model_rows(views, details),
        "evaluation_panels": evaluation_panels(inputs),
        "tax_panels": tax_panels(inputs),
        "paper": FIGURE_10,
        "dialogues": select_dialogues(inputs.comparisons, settings.report.dialogues, settings.seed),
    }


def _training(settings: Settings, inputs: ReportInputs) -> dict[str, Any]:
    """What the sections of the stages that train show."""
    return {
        "sft_panels": sft_panels(inputs),
        "reward_panels": {stage: reward_panels(stage, inputs) for stage in _RANKING_STAGES},
        "most_wrong": {
            stage: most_wrong(inputs.details[stage], stage) for stage in _RANKING_STAGES
        },
        "dpo_panels": dpo_panels(inputs),
        "process_panels": process_panels(inputs),
        "ppo_groups": ppo_groups(settings, inputs),
        "samples": sample_timelines(inputs.samples),
    }
