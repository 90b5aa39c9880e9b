"""Supervised fine-tuning: the loss falls on the assistant's tokens only (section 5.1)."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from rlhf.batches.padding import TokenBatch, pad
from rlhf.batches.plan import Limits, epoch_plan, micro_batches
from rlhf.batches.tables import read_rows_of
from rlhf.common.files import staged_directory
from rlhf.common.metrics import write_summary
from rlhf.core.tally import Tally
from rlhf.engine import share
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.saving import load_causal_lm, load_tokenizer, save_causal_lm, train_only_top
from rlhf.settings import Settings
from rlhf.training.run import begin, evidence
from rlhf.training.supervised import Job, Loss, fit
from rlhf.workspace import Workspace


def train(settings: Settings, workspace: Workspace) -> None:
    """Fine-tune models/base on the `sft` table; writes models/sft and metrics/sft.{json,jsonl}."""
    inputs = {"base": workspace.model("base"), "table": workspace.prepared / "sft.parquet"}
    run = begin("sft", settings, workspace, ["sft", "data"], inputs)
    engine, section = run.engine, settings.sft
    tokenizer = load_tokenizer(workspace.model("base"))
    rows = read_rows_of(workspace, "sft", "train")
    held_out = read_rows_of(workspace, "sft", "validation")
    model = load_causal_lm(workspace.model("base"))
    train_only_top(model, section.trainable_layers)

    lengths = [len(ids) for ids in rows["input_ids"]]
    plan = epoch_plan(lengths, Limits(section.batch_tokens), section.epochs, settings.seed, "sft")
    trainer = engine.trainer(model, section.optimizer, len(plan))

    def batch_of(table: pd.DataFrame, items: Sequence[int]) -> TokenBatch:
        ids, masks = table["input_ids"].iloc[list(items)], table["loss_mask"].iloc[list(items)]
        return pad(list(ids), list(masks), int(tokenizer.pad_token_id)).to(engine.device)

    def logprobs_of(table: pd.DataFrame, items: Sequence[int]) -> Tensor:
        batch = batch_of(table, items)
        with engine.autocast():
            logits = target_logits(model, hidden_states(model, batch), batch)
        return token_logprobs(logits, target_tokens(batch))

    targets = [int(sum(mask)) for mask in rows["loss_mask"]]

    def losses(items: Sequence[int], tally: Tally) -> list[Loss]:
        count = sum(targets[item] for item in items)
        parts = share(
            micro_batches(items, lengths, section.micro_batch_tokens),
            engine.rank,
            engine.world_size,
        )

        def loss(part: list[int], weight: float) -> Tensor:
            values = -logprobs_of(rows, part)
            tally.add(weight, train_loss=values)
            return weight * values.sum() / count

        return [lambda part=part, weight=weight: loss(part, weight) for part, weight in parts]  # type: ignore[misc]

    held_out_lengths = [len(ids) for ids in held_out["input_ids"]]

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        tally = Tally()
        parts = micro_batches(
            range(len(held_out)), held_out_lengths, 2 * section.micro_batch_tokens
        )
        for part, weight in share(parts, engine.rank, engine.world_size):
            tally.add(weight, validation_loss=-logprobs_of(held_out, part))
        loss = tally.means(engine.all_sum)["validation_loss"]
        return {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 50.0))}

    job = Job(
        plan=plan,
        tokens=lengths,
        losses=losses,
        evaluate=evaluate,
        describe=lambda items: evidence(rows, items),
        evaluate_every=section.evaluate_every,
        checkpoint_every=section.checkpoint_every,
    )
    outcome = fit(run, trainer, job)
    with trainer.gathered():
        if run.is_main:
            with staged_directory(workspace.model("sft")) as directory:
                save_causal_lm(model, tokenizer, directory)
    if run.is_main:
        write_summary(
            workspace.metrics("sft"),
            {
                "train_loss": outcome.train["train_loss"],
                **outcome.held_out,
                "base_validation_loss": outcome.initial["validation_loss"],
                "base_validation_perplexity": outcome.initial["validation_perplexity"],
                "steps": len(plan),
                "dialogues": len(rows),
                "precision": run.engine.precision,
                "seconds": outcome.seconds,
                "tokens_per_second": outcome.tokens / outcome.seconds,
            },
        )
        run.checkpoints.finish()
