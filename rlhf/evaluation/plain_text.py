"""What plain text costs a model: the alignment tax in nats (fig. 12)."""

from pathlib import Path

import torch

from rlhf.batches.padding import TokenBatch, pad
from rlhf.batches.tables import read_rows_of
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.saving import load_causal_lm
from rlhf.workspace import Workspace

_WINDOWS_PER_BATCH = 32


@torch.no_grad()
def plain_text_loss(directory: Path, workspace: Workspace, engine: TorchEngine) -> float:
    """Nats per token of a model on the held-out windows of plain text."""
    model = engine.frozen(load_causal_lm(directory))
    pad_id = int(model.config.pad_token_id or 0)
    rows = read_rows_of(workspace, "pretrain", "validation")["input_ids"]
    windows = [ids.tolist() for ids in rows]

    total, count = 0.0, 0
    for start in range(0, len(windows), _WINDOWS_PER_BATCH):
        batch = _batch(windows[start : start + _WINDOWS_PER_BATCH], pad_id).to(engine.device)
        with engine.autocast():
            hidden = hidden_states(model, batch)
            logits = target_logits(model, hidden, batch)
        losses = -token_logprobs(logits, target_tokens(batch))
        total += float(losses.sum())
        count += losses.numel()
    # over tokens, not over batches: the last batch is smaller
    return total / count


def _batch(windows: list[list[int]], pad_id: int) -> TokenBatch:
    # every token is a target
    targets = [[True] * len(window) for window in windows]
    return pad(windows, targets, pad_id)
