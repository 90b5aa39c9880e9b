from pathlib import Path
from typing import Any

import pytest
from tiny import changed

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import flatten, load_settings, preset_names, preset_text, settings_from
from rlhf.settings.edit import edited

PENALTY = {"coefficient": 1.0, "target": None}


def refused(changes: dict[str, Any]) -> str:
    """The message for the preset `tiny` with these keys changed."""
    with pytest.raises(SettingsError) as caught:
        settings_from(changed(parse_yaml(preset_text("tiny"), "tiny"), changes), "params.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    content = parse_yaml(preset_text(name), name)
    settings = settings_from(content)
    assert settings_from(settings.model_dump(mode="json", by_alias=True)) == settings


def test_the_presets_that_are_promised_are_there() -> None:
    assert {"tiny", "laptop", "hh-small", "hh-7b"} <= set(preset_names())
    with pytest.raises(SettingsError, match=r"no preset 'huge'; there are: .*laptop"):
        preset_text("huge")


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("ppo.kl.coeficient", "coefficient, estimator"),
        ("learning_rate", "data, dpo, engine"),
        ("sft.optimizer.lr", "learning_rate"),
        ("ppo.gae.lam_bda", "gamma, lambda"),
        ("ppo.ptx.weight", "coefficient, windows"),
        ("evaluate.generation.top_k", "top_p"),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_known(path: str, known: str) -> None:
    message = refused({path: 1})
    assert f"params.yaml: {path}: unknown key" in message and known in message


def test_an_unknown_key_of_a_named_endpoint_is_named_with_those_that_are_known() -> None:
    """Newcomers write this section first."""
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_variable": "K", "keyy": 1}
    message = refused({"evaluate.endpoints": {"gpt-4": endpoint}})
    assert "evaluate.endpoints.gpt-4.keyy: unknown key" in message and "key_variable" in message


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("ppo.kl.estimator", "k4", "'k1', 'k2' or 'k3'"),
        ("ppo.iterations", 0, "greater than or equal to 1"),
        ("ppo.iterations", 1.5, "integer"),
        ("ppo.iterations", True, "null"),
        ("ppo.ptx", False, "a detail that is off is null"),
        ("sft.optimizer.learning_rate", "fast", "number"),
        ("sft.optimizer.learning_rate", float("nan"), "finite"),
        ("sft.optimizer.learning_rate", 0, "greater than 0"),
        ("sft.optimizer.beta2", 1.0, "less than 1"),
        ("ppo.gae.lambda", 1.5, "less than or equal to 1"),
        ("evaluate.tie_probability", 0.4, "greater than or equal to 0.5"),
        ("data.sft", [], "data.sft: must have at least 1 item (found [])"),
        ("data.sft", "starter", "must be a list"),
        ("seed", "one", "integer"),
        ("ppo.algorithm", "no-such-one", "must be one of aihf, "),
        ("experiment", "team/rlhf", "String should match pattern"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(path: str, value: Any, told: str) -> None:
    message = refused({path: value})
    section = path.split(".")[0]
    assert (
        message.startswith(f"params.yaml: {section}")
        and path.split(".")[-1] in message
        and told in message
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ppo.rollouts": 10}, "ppo: rollouts 10 is not a multiple of mini_batch 4"),
        ({"ppo.micro_batch": 3}, "ppo: mini_batch 4 is not a multiple of micro_batch 3"),
        ({"engine.processes": 2}, "engine: processes > 1 needs kind: deepspeed"),
        (
            {"engine.frozen_models": "sharded"},
            "engine: frozen_models: sharded needs kind: deepspeed",
        ),
        ({"engine.offload": "optimizer"}, "engine: offload: optimizer needs kind: deepspeed"),
        (
            {"engine.kind": "deepspeed", "engine.offload": "optimizer-and-parameters"},
            "engine: offload: optimizer-and-parameters needs zero_stage: 3",
        ),
        (
            {"engine.kind": "deepspeed", "engine.processes": 2},
            "ppo.mini_batch 4 is not a multiple of ppo.micro_batch",
        ),
        ({"reward.min_pairs": 200}, "reward: min_pairs 200 is above max_pairs 128"),
        (
            {"reward.min_pairs": 4, "reward.max_pairs": 6},
            "reward: max_pairs 6: batches of 4 need 7",
        ),
        (
            {"data.validation_fraction": 0.6, "data.test_fraction": 0.4},
            "data: validation_fraction + test_fraction",
        ),
        ({"evaluate.comparisons": [["policy", "gold"]]}, "evaluate: comparisons: ['gold']"),
        ({"evaluate.comparisons": []}, "evaluate: comparisons: empty"),
        (
            {"ppo.reward.scale": "running"},
            "ppo.reward: normalise divides by the standard deviation already",
        ),
        ({"ppo.penalty": PENALTY}, "ppo: the penalty of eq. 14 takes the place of the clip"),
        (
            {"ppo.penalty": PENALTY, "ppo.surrogate_clip": None, "ppo.importance": "reference"},
            "importance must be policy",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    message = refused(changes)
    assert told in message
    assert len(message) < 250  # and the message does not spill a whole section


def test_every_fault_is_told_at_once() -> None:
    message = refused({"ppo.iterations": 0, "sft.epochs": -1, "reward.batch_tokenz": 5})
    assert [line.split(": ")[1] for line in message.splitlines()] == [
        "sft.epochs", "reward.batch_tokenz", "ppo.iterations"
    ]  # fmt: skip


def test_a_missing_key_is_named() -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    del content["ppo"]["kl"], content["sft"]
    with pytest.raises(SettingsError, match=r"sft: missing\n.*ppo\.kl: missing"):
        settings_from(content)


def test_a_key_that_has_a_default_is_asked_for_too() -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    del (
        content["ppo"]["gae"]["lambda"],
        content["data"]["broken"],
        content["report"],
        content["ppo"]["sampling"],
    )
    with pytest.raises(SettingsError) as caught:
        settings_from(content, "params.yaml")
    assert str(caught.value).splitlines() == [
        'params.yaml: data.broken: missing; the default is "drop"',
        'params.yaml: ppo.sampling: missing; the default is {"temperature": 1.0, "sampler": "local", "batch_size": null, '
        '"importance_cap": null, "vllm": null}',
        "params.yaml: ppo.gae.lambda: missing; the default is 0.95",
        'params.yaml: report: missing; the default is {"dialogues": 12}',
    ]


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_numbers_that_yaml_reads_as_text_are_accepted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(preset_text("tiny").replace("learning_rate: 1.0e-4", f"learning_rate: {text}"))
    assert load_settings(path).ppo.optimizer.learning_rate == 1e-5


def test_details_that_are_off_are_null() -> None:
    off = {"ppo.kl": None, "ppo.ptx": None, "ppo.surrogate_clip": None, "ppo.value_clip": None}
    off |= {
        "ppo.reward.normalise": None,
        "ppo.reward.clip": None,
        "ppo.optimizer.max_gradient_norm": None,
    }
    settings = settings_from(changed(parse_yaml(preset_text("tiny"), "tiny"), off))
    assert settings.ppo.kl is settings.ppo.ptx is settings.ppo.reward.clip is None


def test_settings_cannot_be_changed_later() -> None:
    settings = settings_from(parse_yaml(preset_text("tiny"), "tiny"))
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1,", "not readable as YAML"),
        ("- 1", "expected a mapping"),
        ("", "found NoneType"),
        (None, "rlhf preset"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(
    tmp_path: Path, text: str | None, told: str
) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=told) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)


def test_flatten_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": None}) == {
        "a.b.c": 1,
        "a.d": [{"e": 2}],
        "f": None,
    }


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(preset_text("tiny") + "report:\n  dialogues: 3\n")
    line = path.read_text().count("\n") - 1
    with pytest.raises(SettingsError, match=rf"params\.yaml:{line}:1: .*report: a second time"):
        load_settings(path)


@pytest.mark.parametrize(
    "line",
    [
        "key_variable: sk-hunter2: x",
        'key_variable: "sk-hunter2',
        "\tsk-hunter2: 1",
        "key_variable: !hunter2",
        "key_variable: *hunter2",
        "{{ hunter2 }}: 1",
    ],
)
def test_a_line_that_is_no_yaml_is_named_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: 1\n{line}\n")
    with pytest.raises(
        SettingsError, match=r"params\.yaml:[23]:\d+: not readable as YAML"
    ) as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(
        SettingsError, match=r"params\.yaml:[23]:\d+: not readable as YAML"
    ) as caught:
        edited(path.read_text(), {"seed": 2}, str(path))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["2026-13-41", "!!bool hunter2", "!!timestamp hunter2", "!!int hunter2"]
)
def test_what_the_parser_takes_for_a_value_that_there_is_not_is_told(
    tmp_path: Path, value: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: {value}\n")
    with pytest.raises(SettingsError, match=r"params\.yaml.*: not readable as YAML: ") as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)
