"""Pairs of an answer over itself cut off, and what a reward model makes of them."""

import json

import numpy as np
import pandas as pd
import torch
from tiny import tiny_settings

from rlhf.batches.tables import read_table, table_path
from rlhf.core.seeds import generator
from rlhf.models.heads import load_scalar_model
from rlhf.training import reward
from rlhf.training.cut_answers import cut_answers, with_cut_answers
from rlhf.workspace import Workspace


def of_seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(lengths: list[int]) -> pd.DataFrame:
    """Answers 10, 11, ... 1 of these lengths; each ends with 1."""
    chosen = [np.array([*range(10, 9 + length), 1]) for length in lengths]
    rejected = [np.array([5, 1])] * len(lengths)
    identities = [f"pair-{number}" for number in range(len(lengths))]
    return pd.DataFrame({"id": identities, "chosen_ids": chosen, "rejected_ids": rejected})


def test_the_rejected_answer_is_the_chosen_one_without_its_end() -> None:
    table = pairs([2, 5, 1, 9])
    cut = cut_answers(table, of_seed())
    # one token cannot be cut
    assert cut["id"].tolist() == ["pair-0", "pair-1", "pair-3"]
    for chosen, rejected in zip(cut["chosen_ids"], cut["rejected_ids"], strict=True):
        assert 1 <= len(rejected) < len(chosen)
        assert rejected.tolist() == chosen.tolist()[: len(rejected)]
    # the table itself stays
    assert all(ids.tolist() == [5, 1] for ids in table["rejected_ids"])


def test_every_place_is_a_place_to_cut() -> None:
    cut = cut_answers(pairs([4] * 300), of_seed())
    counts = cut["rejected_ids"].map(len).value_counts()
    assert set(counts.index) == {1, 2, 3}
    assert counts.min() > 70


def test_a_share_of_the_pairs_comes_once_more() -> None:
    table = pairs([4] * 40)
    found = with_cut_answers(table, 0.25, of_seed())
    assert len(found) == 50 and found.index.tolist() == list(range(50))
    assert found.iloc[:40]["id"].tolist() == table["id"].tolist()
    assert all(ids.tolist() == [5, 1] for ids in found.iloc[:40]["rejected_ids"])
    more = found.iloc[40:]
    assert more["id"].is_unique and more["id"].tolist() != table["id"].tolist()[:10]
    assert all(ids[-1] != 1 for ids in more["rejected_ids"])
    again = with_cut_answers(table, 0.25, of_seed())
    assert again["id"].tolist() == found["id"].tolist()
    other = with_cut_answers(table, 0.25, of_seed(1))
    assert other["id"].tolist() != found["id"].tolist()


def test_answers_of_one_token_make_no_pair() -> None:
    table = pairs([1, 1])
    assert cut_answers(table, of_seed()).empty
    assert with_cut_answers(table, 1.0, of_seed())["id"].tolist() == table["id"].tolist()


@torch.no_grad()
def slow_margins(workspace: Workspace, pairs: pd.DataFrame) -> list[float]:
    """r(chosen) - r(rejected), one sequence at a time."""
    model = load_scalar_model(workspace.model("reward"))
    scores: list[list[float]] = [[], []]
    for _, row in pairs.iterrows():
        for name, found in zip(("chosen_ids", "rejected_ids"), scores, strict=True):
            ids = torch.tensor([[*row["prompt_ids"].tolist(), *row[name].tolist()]])
            found.append(
                float(model.head(model.lm.base_model(input_ids=ids).last_hidden_state[0, -1]))
            )
    return [chosen - rejected for chosen, rejected in zip(*scores, strict=True)]


def test_a_reward_model_learns_that_answers_have_to_end(workspace: Workspace) -> None:
    # both answers are the same: only cut ones can teach anything
    path = table_path(workspace, "preferences")
    table = pd.read_parquet(path)
    table["rejected_ids"] = table["chosen_ids"]
    table.to_parquet(path)

    test = read_table(workspace, "preferences", split="test")
    endless = test.assign(rejected_ids=[ids[:-1] for ids in test["chosen_ids"]])
    summaries, margins = [], []
    for share in (0.0, 1.0):
        changes = {"reward.epochs": 8.0, "reward.optimizer.learning_rate": 3e-3}
        settings = tiny_settings(changes | {"reward.cut_answers": share})
        reward.train(settings, workspace)
        summaries.append(json.loads(workspace.metrics("reward").read_text()))
        margins.append(slow_margins(workspace, endless))
        # what is measured: the test pairs, each cut where the run's seed says
        cut = cut_answers(test, generator(settings.seed, "reward", "cut answers", "test"))
        right = np.mean([margin > 0 for margin in slow_margins(workspace, cut)])
        assert summaries[-1]["accuracy_cut_answers"] == right
    assert min(margins[0]) < 0 < 1 < min(margins[1])

    without, with_cut = summaries
    assert without["accuracy_cut_answers"] < with_cut["accuracy_cut_answers"] == 1.0
    assert with_cut["pairs_trained"] == without["pairs_trained"]
    assert with_cut["pairs_per_epoch"] == 2 * without["pairs_per_epoch"]
