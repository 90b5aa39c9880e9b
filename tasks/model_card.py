"""The description of a version in MLflow's registry: what it is, from what, how good, and where to look."""

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.entities.model_registry import ModelVersion

from rlhf.common.shown import format_metric
from tasks.lineage import DEPENDENCY
from tasks.metric_names import FLAGS

# what the source of a version begins with
LOGGED_MODEL = "models:/"
_ABOUT = {
    "base": "The pretrained language model that all others start from",
    "sft": "The base model, fine-tuned on dialogues",
    "reward": "Scores an answer to a prompt; PPO trains the policy against it",
    "dpo": "The SFT model, trained on preference pairs directly; an optimal token-level Q function",
    "process": "Says of each step of an answer whether it is right",
    "gold": "A second reward model, trained on pairs that the first never saw; it only judges",
    "policy": "The model that PPO trained from SFT against the reward model",
}
# a bare 0 or 1 would be read as a truth value
_SHARES = {"finished": "answers that ended by themselves, within the limit of tokens"}
_LOADS_LANGUAGE_MODEL = """chat = mlflow.transformers.load_model("{uri}")
chat([{{"role": "user", "content": "How do I keep bread fresh?"}}], max_new_tokens=80)"""
_LOADS_REWARD_MODEL = """scorer = mlflow.pyfunc.load_model("{uri}")
scorer.predict(pandas.DataFrame({{"prompt": ["..."], "response": ["..."]}}))"""


def logged_model_id(version: ModelVersion) -> str:
    """Give the logged model that a version was made from; MLflow keeps it in the source alone."""
    return str(version.source).removeprefix(LOGGED_MODEL)


def write_card(client: MlflowClient, version: ModelVersion) -> None:
    """Describe a version in Markdown, with every figure that its logged model has so far."""
    logged = client.get_logged_model(logged_model_id(version))
    text = "\n\n".join(
        [
            f"{_ABOUT.get(logged.name, logged.name)}.",
            _figures(logged.metrics or []),
            _origin(client, logged),
            _loading(version, logged),
        ]
    )
    client.update_model_version(version.name, version.version, text)


def _figures(metrics: list[Metric]) -> str:
    """A table; a rate with its interval is one row."""
    # a later run's figure takes the place of an earlier one's
    ordered = sorted(metrics, key=lambda metric: metric.timestamp)
    values = {metric.key: metric.value for metric in ordered}
    rows = ["| figure | value |", "|---|---|"]
    for key in sorted(values, key=_importance):
        if _is_bound(key, values):
            continue
        name, value = key, format_metric(values[key])
        if key in FLAGS:
            value = format_metric(bool(values[key]))
        if key in _SHARES:
            name, value = f"{key}: {_SHARES[key]}", f"{100 * values[key]:.3g} %"
        low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
        if low is not None and high is not None:
            value = f"{values[key]:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(f"| {name} | {value} |")
    return "\n".join(rows) if len(rows) > 2 else "Nothing measured of it yet."


def _importance(key: str) -> tuple[int, str]:
    """Win rates first, then those with the length controlled for, then the rest by name."""
    beginnings = ("win_rate_over", "win_rate")
    place = next((n for n, start in enumerate(beginnings) if key.startswith(start)), 2)
    return place, key


def _is_bound(key: str, values: dict[str, float]) -> bool:
    rate, _, end = key.rpartition("_")
    return end in ("low", "high") and rate in values


def _origin(client: MlflowClient, logged: LoggedModel) -> str:
    """Stage, commit and what was read, with links to the runs."""
    run = client.get_run(str(logged.source_run_id))
    tags = logged.tags
    changed = ", with changes" if tags["git.dirty"] == "true" else ""
    read = [name for name in map(_read_path, sorted(run.data.tags)) if name]
    source = f", from {', '.join(read)}" if read else ""
    runs = f"#/experiments/{run.info.experiment_id}/runs"
    parent = run.data.tags["mlflow.parentRunId"]
    return (
        f"Made by stage `{tags['stage']}` at commit `{tags['git.commit'][:12]}`{changed}{source}.\n\n"
        f"[Its run]({runs}/{run.info.run_id}): settings, curves, samples. "
        f"[The execution]({runs}/{parent}/artifacts): all stages, and the report once it is drawn. "
        "`lineage.json` beside the model: hashes of all that it was made from."
    )


def _read_path(tag: str) -> str:
    """A model or table that the run's tag says it read; "" for another tag."""
    path = tag.removeprefix(DEPENDENCY)
    return f"`{path}`" if path != tag else ""


def _loading(version: ModelVersion, logged: LoggedModel) -> str:
    template = _LOADS_REWARD_MODEL if logged.name in ("reward", "gold") else _LOADS_LANGUAGE_MODEL
    code = template.format(uri=f"models:/{version.name}/{version.version}")
    return f"```python\n{code}\n```"
