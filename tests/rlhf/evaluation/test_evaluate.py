import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rlhf.common.errors import DataError, ModelError
from rlhf.common.files import read_json
from rlhf.core.seeds import derive_seed
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.evaluate import evaluate
from rlhf.evaluation.responses import generate_responses, length_batches, read_prompts
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    (tmp_path / "models").symlink_to(trained / "models")
    shutil.copytree(trained / "data", tmp_path / "data")
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def evaluated(trained: Path, settings: Settings) -> Workspace:
    workspace = Workspace(trained)
    evaluate(settings, workspace)
    return workspace


def test_every_prompt_is_compared_once_by_each_pair(evaluated: Workspace) -> None:
    table = pd.read_parquet(evaluated.comparisons)
    assert len(table) == 20
    assert sorted(set(zip(table["challenger"], table["baseline"], strict=True))) == [
        ("policy", "sft"),
        ("sft", "base"),
    ]
    assert set(table["id"]) == {f"p{n}" for n in range(10)}  # the train split stays out
    assert (table["verdict_first"] == table["verdict_second"]).all()
    assert (table["verdict"] == table["verdict_first"]).all()
    assert table["seed"].tolist() == [derive_seed(1, "evaluate", name) for name in table["id"]]
    assert json.loads(table["messages"][0])[-1]["content"] == table["prompt"][0]


def test_one_model_says_and_scores_the_same_in_both_comparisons(evaluated: Workspace) -> None:
    table = pd.read_parquet(evaluated.comparisons)
    first, second = table[table["challenger"] == "policy"], table[table["challenger"] == "sft"]
    assert first["response_baseline"].tolist() == second["response_challenger"].tolist()
    assert first["score_baseline"].tolist() == second["score_challenger"].tolist()


def test_summary_agrees_with_the_table(evaluated: Workspace) -> None:
    table = pd.read_parquet(evaluated.comparisons)
    found = read_json(evaluated.metrics("evaluate"))
    headline = table[table["challenger"] == "policy"]
    for suffix, rows in [
        ("", headline),
        *((f"_{kind}", part) for kind, part in headline.groupby("kind")),
    ]:
        shares = [found[f"{name}{suffix}"] for name in ("win", "tie", "lose")]
        assert shares == pytest.approx(
            [(rows["verdict"] == name).mean() for name in ("win", "tie", "lose")]
        )
        assert found[f"win_rate{suffix}"] == pytest.approx(shares[0] + shares[1] / 2)
        assert (
            found[f"win_rate_low{suffix}"]
            <= found[f"win_rate{suffix}"]
            <= found[f"win_rate_high{suffix}"]
        )
    assert "sft_vs_base_win_rate_low_harmless" in found
    assert found["gold_score_policy"] == pytest.approx(headline["score_challenger"].mean())
    assert found["response_length_policy"] == pytest.approx(headline["length_challenger"].mean())
    assert {
        "distinct_2_base",
        "distinct_2_sft",
        "seconds",
        "longer_win_rate",
        "orders_agree",
    } <= set(found)


def test_details_hold_in_structure_what_the_summary_holds_flat(evaluated: Workspace) -> None:
    flat, details = (
        read_json(evaluated.metrics("evaluate")),
        read_json(evaluated.details("evaluate")),
    )
    headline, other = details["comparisons"]
    assert (headline["challenger"], headline["baseline"]) == ("policy", "sft")
    assert (headline["judge"], headline["headline"], other["headline"]) == ("gold", True, False)
    for row, prefix in ((headline, ""), (other, "sft_vs_base_")):
        for key, value in row["metrics"].items():
            assert flat[f"{prefix}{key}"] == value
        for kind, shares in row["kinds"].items():
            for key, value in shares.items():
                assert flat[f"{prefix}{key}_{kind}"] == value
    assert details["prompts"] == flat["prompts"] == 10
    for model in details["models"]:
        assert model["gold_score"] == flat[f"gold_score_{model['model']}"]


def test_histograms_hold_every_comparison(evaluated: Workspace) -> None:
    found = read_json(evaluated.details("evaluate"))
    for comparison in found["comparisons"]:
        assert sum(map(sum, comparison["score_difference"]["counts"].values())) == 10
    assert {name: sum(counts) for name, counts in found["lengths"]["counts"].items()} == {
        "base": 10,
        "policy": 10,
        "sft": 10,
    }


def test_a_second_run_writes_the_same_table(
    evaluated: Workspace, workspace: Workspace, settings: Settings
) -> None:
    evaluate(settings, workspace)
    pd.testing.assert_frame_equal(
        pd.read_parquet(workspace.comparisons), pd.read_parquet(evaluated.comparisons)
    )


def test_responses_depend_neither_on_batching_nor_on_row_order(
    workspace: Workspace, settings: Settings
) -> None:
    path = workspace.prepared / "prompts.parquet"
    engine, generation = TorchEngine(settings.engine), settings.evaluate.generation
    prompts = read_prompts(workspace)
    found = generate_responses(
        "sft", workspace.model("sft"), prompts, generation, engine, settings.seed
    )
    pd.read_parquet(path)[::-1].to_parquet(path)
    alone = generation.model_copy(update={"batch_size": 1})
    again = generate_responses(
        "sft", workspace.model("sft"), read_prompts(workspace), alone, engine, settings.seed
    )
    assert [response.ids for response in again[::-1]] == [response.ids for response in found]


def test_batches_hold_everything_once_longest_first() -> None:
    batches = length_batches([3, 9, 4, 9, 1], 2)
    assert batches == [[1, 3], [2, 0], [4]]


def test_missing_prompts_are_named(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"prompts\.parquet: no such table"):
        evaluate(settings, Workspace(tmp_path))


def test_a_missing_model_is_named(workspace: Workspace, settings: Settings, trained: Path) -> None:
    models = workspace.root / "models"
    models.unlink()
    models.mkdir()
    with pytest.raises(ModelError, match="models/policy: no model here"):
        evaluate(settings, workspace)
    for name in ("base", "sft", "policy"):
        (models / name).symlink_to(trained / "models" / name)
    with pytest.raises(ModelError, match="models/gold: no scalar_head"):
        evaluate(settings, workspace)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "no row of split 'test'"),
        ({"id": "same"}, "share one id"),
        ({"messages": "[broken"}, "row 'p0': messages is not a JSON list"),
    ],
)
def test_faults_of_the_prompts_are_named(
    workspace: Workspace, change: dict[str, str], message: str
) -> None:
    path = workspace.prepared / "prompts.parquet"
    pd.read_parquet(path).assign(**change).to_parquet(path)
    with pytest.raises(DataError, match=message):
        read_prompts(workspace)


def test_a_table_without_the_columns_is_refused(workspace: Workspace) -> None:
    path = workspace.prepared / "prompts.parquet"
    pd.DataFrame({"id": [1]}).to_parquet(path)
    with pytest.raises(DataError, match=r"lacks|columns"):
        read_prompts(workspace)
