"""The additions of `additions:ROWS` as tables, with a token for every letter."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tiny import tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.batches.tables import write_table
from rlhf.core.separators import StepFinder
from rlhf.data.sources.additions import SEPARATOR, Addition, draw_addition, draw_attempt
from rlhf.models.saving import save_causal_lm
from rlhf.workspace import Workspace

PLACES = 2
LETTERS = "0123456789+=\n"
SPECIAL = ("<pad>", "<|im_end|>", "<|im_start|>")


# -- tokens and tables --------------------------------------------------------------------------


def addition_tokenizer() -> PreTrainedTokenizerFast:
    """Every letter is a token."""
    vocabulary = {name: place for place, name in enumerate([*SPECIAL, *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    pad, end, start = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=end, bos_token=start
    )


TOKENIZER = addition_tokenizer()


def prompt_ids(addition: Addition) -> list[int]:
    return [int(TOKENIZER.bos_token_id), *TOKENIZER.encode(addition.prompt + SEPARATOR)]


def response_ids(lines: list[str]) -> list[int]:
    return [*TOKENIZER.encode(SEPARATOR.join(lines)), int(TOKENIZER.eos_token_id)]


def solution_row(split: str, number: int, addition: Addition, lines: list[str]) -> dict[str, Any]:
    ids = response_ids(lines)
    return {
        "id": f"steps-{split}-{number}",
        "kind": "other",
        "split": split,
        "source": "made",
        "opening": addition.prompt,
        "messages": json.dumps([{"role": "user", "content": addition.prompt}]),
        "separator": SEPARATOR,
        "prompt_ids": prompt_ids(addition),
        "response_ids": ids,
        "step_ends": StepFinder(TOKENIZER, SEPARATOR).ends(ids),
        "labels": [float(right) for right in addition.verdicts(lines)],
    }


def write_solutions(
    workspace: Workspace, counts: dict[str, int], *, base: int, slip: float, attempts: int
) -> None:
    """The table `steps`: some attempts at each addition, and no addition in two splits."""
    random = Random(1)
    rows: list[dict[str, Any]] = []
    seen: set[Addition] = set()
    for split, count in counts.items():
        while sum(row["split"] == split for row in rows) < count:
            addition = draw_addition(random, PLACES, base)
            if addition in seen:
                continue
            seen.add(addition)
            for _ in range(attempts):
                lines = draw_attempt(random, addition, slip)
                rows.append(solution_row(split, len(rows), addition, lines))
    workspace.prepared.mkdir(parents=True, exist_ok=True)
    write_table(workspace.prepared, "steps", rows)


def addition_workspace(root: Path) -> Workspace:
    """A model that knows nothing, under the name of the SFT model."""
    workspace = Workspace(root)
    save_causal_lm(
        tiny_model(1, std=0.05),
        TOKENIZER,
        workspace.model("sft"),
    )
    return workspace
