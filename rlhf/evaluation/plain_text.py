"""What plain text costs a model: the alignment tax in nats (fig. 12)."""

from pathlib import Path

import torch

from rlhf.batches.padding import pad
from rlhf.batches.tables import read_rows_of
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.saving import load_causal_lm
from rlhf.workspace import Workspace

_BATCH = 32


@torch.no_grad()
def plain_text_loss(directory: Path, workspace: Workspace, engine: TorchEngine) -> float:
    """Nats per token of a model on the held-out windows of plain text."""
    model = engine.frozen(load_causal_lm(directory))
    windows = [
        [int(token) for token in ids]
        for ids in read_rows_of(workspace, "pretrain", "validation")["input_ids"]
    ]
    total, count = 0.0, 0
    for start in range(0, len(windows), _BATCH):
        part = windows[start : start + _BATCH]
        batch = pad(
            part, [[True] * len(window) for window in part], int(model.config.pad_token_id or 0)
        )
        batch = batch.to(engine.device)
        with engine.autocast():
            logits = target_logits(model, hidden_states(model, batch), batch)
        losses = -token_logprobs(logits, target_tokens(batch))
        total, count = total + float(losses.sum()), count + losses.numel()
    return total / count
