"""Reward models: pairwise ranking loss plus an imitation loss on the preferred answer (section 3.1, eq. 1-2).

`gold` is trained by the same code on pairs that `reward` never saw, under another seed, and only judges.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.pairs import PairBatch, pad_pairs
from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import write_summary
from rlhf.core.tally import Tally
from rlhf.engine import Engine, share
from rlhf.models.backbone import pair_hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.heads import ScalarModel, at_pair_ends, new_scalar_model, save_scalar_model
from rlhf.models.saving import load_tokenizer, train_only_top
from rlhf.settings import Settings
from rlhf.training.ranking import PairScores, details, summary
from rlhf.training.run import begin, evidence
from rlhf.training.supervised import Job, Loss, fit
from rlhf.workspace import Workspace

Role = Literal["reward", "gold"]
TRAINING_SPLIT: dict[Role, str] = {"reward": "train", "gold": "gold"}


def train(settings: Settings, workspace: Workspace, role: Role = "reward") -> None:
    """Train models/<role> on its split of the `preferences` table; writes the model and its metrics."""
    section = settings.reward if role == "reward" else settings.gold
    start = workspace.model(section.initial)
    run = begin(
        role,
        settings,
        workspace,
        [role, "data"],
        {"start": start, "table": workspace.prepared / "preferences.parquet"},
    )
    engine = run.engine
    tokenizer = load_tokenizer(start)
    rows = read_rows_of(workspace, "preferences", TRAINING_SPLIT[role])
    pairs = balanced(rows) if section.balance_kinds else rows
    held_out = read_rows_of(workspace, "preferences", "validation")
    test = read_rows_of(workspace, "preferences", "test")
    model = new_scalar_model(start, settings.seed, role)
    train_only_top(model.lm, section.trainable_layers)

    reader = PairReader(pairs, int(tokenizer.pad_token_id), engine)
    held_out_reader = PairReader(held_out, int(tokenizer.pad_token_id), engine)
    limits = Limits(section.batch_tokens, section.min_pairs, section.max_pairs)
    plan = epoch_plan(reader.tokens, limits, section.epochs, settings.seed, role)[
        : section.max_steps
    ]
    trainer = engine.trainer(model, section.optimizer, len(plan))

    def losses(items: Sequence[int], tally: Tally) -> list[Loss]:
        chosen_tokens = sum(len(pairs["chosen_ids"].iloc[item]) for item in items)
        parts = share(
            micro_batches(items, reader.tokens, section.micro_batch_tokens),
            engine.rank,
            engine.world_size,
        )

        def loss(part: list[int], weight: float) -> Tensor:
            margins, lm = reader.margins_and_lm_losses(model, part, section.lm_coefficient > 0)
            ranking = -torch.nn.functional.logsigmoid(margins)
            total = ranking.sum() / len(items) + section.lm_coefficient * lm.sum() / chosen_tokens
            tally.add(weight, pair_loss=ranking, train_accuracy=(margins > 0).float())
            if section.lm_coefficient > 0:
                tally.add(weight, lm_loss=lm)
            return weight * total

        return [lambda part=part, weight=weight: loss(part, weight) for part, weight in parts]  # type: ignore[misc]

    def evaluate() -> dict[str, float]:
        scores = score_pairs(model, held_out_reader, 2 * section.micro_batch_tokens)
        margin = torch.tensor(scores.margins)
        return {
            "validation_accuracy": float((margin > 0).double().mean()),
            "validation_loss": float(-torch.nn.functional.logsigmoid(margin).mean()),
            "validation_margin": float(margin.mean()),
        }

    job = Job(
        plan=plan,
        tokens=reader.tokens,
        losses=losses,
        evaluate=evaluate,
        describe=lambda items: evidence(pairs, items),
        evaluate_every=section.evaluate_every,
        checkpoint_every=section.checkpoint_every,
        shown=("pair_loss", "train_accuracy"),
    )
    outcome = fit(run, trainer, job)
    # The loss leaves the origin of the scores open: it is put where the held-out scores have mean 0.
    origin, spread = score_pairs(
        model, held_out_reader, 2 * section.micro_batch_tokens
    ).origin_and_spread
    test_reader = PairReader(test, int(tokenizer.pad_token_id), engine)
    scores = score_pairs(model, test_reader, 2 * section.micro_batch_tokens).from_origin(origin)
    with trainer.gathered():
        if run.is_main:
            with torch.no_grad():
                model.head.bias.sub_(origin)
            with staged_directory(workspace.model(role)) as directory:
                save_scalar_model(model, tokenizer, directory, role, spread)
    if run.is_main:
        write_json(workspace.details(role), details(test, scores))
        write_summary(
            workspace.metrics(role),
            {
                **summary(test, scores),
                **outcome.held_out,
                **{
                    key: value
                    for key, value in outcome.train.items()
                    if key in ("pair_loss", "lm_loss")
                },
                "steps": len(plan),
                "pairs_trained": len(rows),
                "pairs_per_epoch": len(pairs),
                "precision": run.engine.precision,
                "seconds": outcome.seconds,
                "tokens_per_second": outcome.tokens / outcome.seconds,
            },
        )
        run.checkpoints.finish()


def train_gold(settings: Settings, workspace: Workspace) -> None:
    """Train models/gold."""
    train(settings, workspace, "gold")


def balanced(table: pd.DataFrame) -> pd.DataFrame:
    """Repeat the scarcer of helpful and harmless rows in turn until there are as many of both; others stay as they are.

    What makes an answer good in one kind can make it bad in the other, a refusal for example: the kind with more pairs
    would settle the sign for both.
    """
    parts = {str(kind): part for kind, part in table.groupby("kind", sort=True)}
    if {"helpful", "harmless"} <= parts.keys():
        most = max(len(parts[kind]) for kind in ("helpful", "harmless"))
        for kind in ("helpful", "harmless"):
            parts[kind] = parts[kind].iloc[np.arange(most) % len(parts[kind])]
    return pd.concat(list(parts.values()), ignore_index=True)


class PairReader:
    """Rows of the preference table as batches of pairs, and what the models say of them."""

    def __init__(self, table: pd.DataFrame, pad_id: int, engine: Engine) -> None:
        self.table, self.pad_id, self.engine = table, pad_id, engine
        columns = [table[f"{name}_ids"].map(len) for name in ("prompt", "chosen", "rejected")]
        self.tokens: list[int] = sum(
            columns
        ).tolist()  # the prompt counts once: it is computed once

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, items: Sequence[int]) -> PairBatch:
        """The pairs in the order of `items`, on the engine's device."""
        rows = self.table.iloc[list(items)]
        prompts, chosen, rejected = (
            list(rows[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")
        )
        return pad_pairs(prompts, chosen, rejected, self.pad_id).to(self.engine.device)

    def margins_and_lm_losses(
        self, model: ScalarModel, items: Sequence[int], with_lm: bool
    ) -> tuple[Tensor, Tensor]:
        """r(chosen) - r(rejected), [B], and -log p of the chosen answers' tokens, [N] (empty if not asked for)."""
        batch = self.batch(items)
        with self.engine.autocast():
            hidden = pair_hidden_states(model.lm, batch)
            chosen, rejected = at_pair_ends(hidden, batch, model).unbind(dim=1)
            if not with_lm:
                return chosen - rejected, chosen.new_zeros(0)
            logits = target_logits(model.lm, hidden, batch.tokens)
        return chosen - rejected, -token_logprobs(logits, target_tokens(batch.tokens))

    def scores(self, model: ScalarModel, items: Sequence[int]) -> Tensor:
        """Scores of the chosen and the rejected answers, [B, 2]."""
        batch = self.batch(items)
        with self.engine.autocast():
            return at_pair_ends(pair_hidden_states(model.lm, batch), batch, model)


@torch.no_grad()
def score_pairs(model: ScalarModel, reader: PairReader, tokens: int) -> PairScores:
    """Score every pair; the same on all processes, in the table's order."""
    engine = reader.engine
    found: list[tuple[int, float, float]] = []
    for items, weight in share(
        micro_batches(range(len(reader)), reader.tokens, tokens), engine.rank, engine.world_size
    ):
        scores = reader.scores(model, items).tolist()
        if weight:
            found.extend(
                (item, chosen, rejected)
                for item, (chosen, rejected) in zip(items, scores, strict=True)
            )
    rows = sorted(engine.all_gather(found))
    return PairScores([row[1] for row in rows], [row[2] for row in rows])
