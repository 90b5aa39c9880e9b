"""Additions with written carries, one line a step, and a checker of each line: a task whose truth is known.

    prompt   17+25      7+5+0=12      digits of the last place, and no carry: 12, so 2 and a carry of 1
                        1+2+1=04      digits of the place before, and that carry
                        042           the last carry and the digits, which is the answer

A line is right if it follows from the prompt and the lines before it, be these right or not. So an answer
may be right by luck, and a line right after a wrong one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tiny import tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.batches.tables import write_table
from rlhf.core.separators import StepFinder
from rlhf.models.saving import save_causal_lm
from rlhf.workspace import Workspace

SEPARATOR = "\n"
LETTERS = "0123456789+=\n"
SPECIAL = ("<pad>", "<|im_end|>", "<|im_start|>")


@dataclass(frozen=True)
class Addition:
    """Two numbers of so many digits each, in some base up to ten.

    left, right: digits, the first place first
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    base: int = 10

    @property
    def prompt(self) -> str:
        return f"{spelt(self.left)}+{spelt(self.right)}"

    @property
    def lines(self) -> list[str]:
        """The right ones."""
        lines: list[str] = []
        for _ in (*self.left, 0):
            lines.append(self.line_after(lines))
        return lines

    def line_after(self, lines: list[str]) -> str:
        """The one line that follows from those before it; what cannot be read there counts as 0."""
        place = len(self.left) - 1 - len(lines)
        carry = _written(lines[-1])[0] if lines else 0
        if place < 0:
            return spelt((carry, *(_written(line)[1] for line in reversed(lines))))
        left, right = self.left[place], self.right[place]
        total = left + right + carry
        return f"{left}+{right}+{carry}={total // self.base}{total % self.base}"

    def verdicts(self, lines: list[str]) -> list[bool]:
        """Of each line, whether it is right."""
        known = len(self.left) + 1
        return [
            number < known and line == self.line_after(lines[:number])
            for number, line in enumerate(lines)
        ]


def spelt(digits: tuple[int, ...]) -> str:
    return "".join(map(str, digits))


def _written(line: str) -> tuple[int, int]:
    """Carry and digit at the end of a line."""
    result = line.rpartition("=")[2]
    return (int(result[0]), int(result[1])) if len(result) == 2 and result.isdigit() else (0, 0)


def drawn(random: Random, places: int = 2, base: int = 10) -> Addition:
    digits = [tuple(random.randrange(base) for _ in range(places)) for _ in range(2)]
    return Addition(*digits, base=base)


def attempt(random: Random, addition: Addition, slip: float) -> list[str]:
    """Lines that follow from each other, but for slips: one digit of a line is another one."""
    lines: list[str] = []
    for _ in (*addition.left, 0):
        line = addition.line_after(lines)
        if random.random() < slip:
            # of the result: what stands before it is copied
            start = line.rfind("=") + 1
            place = random.randrange(start, len(line))
            other = random.choice([d for d in range(addition.base) if str(d) != line[place]])
            line = line[:place] + str(other) + line[place + 1 :]
        lines.append(line)
    return lines


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
            addition = drawn(random, base=base)
            if addition in seen:
                continue
            seen.add(addition)
            for _ in range(attempts):
                lines = attempt(random, addition, slip)
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
