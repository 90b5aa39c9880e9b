"""`additions:ROWS`: additions with written carries, one line a step; the truth of every line is known.

    prompt   17+25      7+5+0=12      digits of the last place, and no carry: 12, so 2 and a carry of 1
                        1+2+1=04      digits of the place before, and that carry
                        042           the last carry and the digits, which is the answer

A line is right if it follows from the prompt and the lines before it, be these right or not. So an
answer may be right by luck, and a line right after a wrong one.

The demonstrations have slips, as a model before RLHF does. The rows depend on the order of the
draws: a draw more or less gives other rows.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rlhf.common.errors import SourceError
from rlhf.core.seeds import derive_seed
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, verified_result

SEPARATOR = "\n"
PLACES = 3
# the share of lines with a slip in a demonstration, and in an attempt whose lines are labelled
_SLIP = 0.15
_SLIP_IN_STEPS = 0.25


class AdditionsSource(Source):
    """ROWS rows for each use, drawn with the run's seed.

    The prompts of two uses may be the same; prepare keeps them on one side of the splits.
    """

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        if not re.fullmatch(r"[1-9]\d*", request.address.detail):
            raise SourceError(f"{request.address}: expected additions:ROWS, such as additions:2000")
        if request.use not in ROWS:
            raise SourceError(f"{request.address}: has nothing for data.{request.use}")

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Write `<use>.jsonl`."""
        self.check(request)
        # each use has a stream of its own
        random = Random(derive_seed(request.seed, "additions", request.use))
        draw_row = ROWS[request.use]
        lines = [json.dumps(draw_row(random)) for _ in range(int(request.address.detail))]
        path = directory / f"{request.use}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return verified_result(request, directory)


# -- additions -------------------------------------------------------------------------------------


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
        """As it is asked: 17+25."""
        return f"{_spelt(self.left)}+{_spelt(self.right)}"

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
            return _spelt((carry, *(_written(line)[1] for line in reversed(lines))))
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


def read_addition(prompt: str) -> Addition | None:
    """The addition that a prompt asks for; None where it asks for something else."""
    match = re.fullmatch(r"(\d+)\+(\d+)", prompt.strip())
    if match is None or len(match[1]) != len(match[2]):
        return None
    left, right = (tuple(int(digit) for digit in number) for number in match.groups())
    return Addition(left, right)


def draw_addition(random: Random, places: int = PLACES, base: int = 10) -> Addition:
    """Two numbers of as many digits."""
    left, right = (tuple(random.randrange(base) for _ in range(places)) for _ in range(2))
    return Addition(left, right, base)


def draw_attempt(random: Random, addition: Addition, slip: float) -> list[str]:
    """Lines that follow from each other, but for slips: one digit of a line's result is another one."""
    lines: list[str] = []
    for _ in (*addition.left, 0):
        line = addition.line_after(lines)
        if random.random() < slip:
            # what stands before the result is copied
            start = line.rfind("=") + 1
            place = random.randrange(start, len(line))
            other = random.choice([d for d in range(addition.base) if str(d) != line[place]])
            line = line[:place] + str(other) + line[place + 1 :]
        lines.append(line)
    return lines


def _spelt(digits: tuple[int, ...]) -> str:
    return "".join(map(str, digits))


def _written(line: str) -> tuple[int, int]:
    """Carry and digit at the end of a line."""
    result = line.rpartition("=")[2]
    return (int(result[0]), int(result[1])) if len(result) == 2 and result.isdigit() else (0, 0)


# -- rows ------------------------------------------------------------------------------------------


def _prompt(random: Random) -> dict[str, object]:
    addition = draw_addition(random)
    return {"prompt": addition.prompt, "reference": addition.lines[-1]}


def _demonstration(random: Random) -> dict[str, object]:
    addition = draw_addition(random)
    answer = SEPARATOR.join(draw_attempt(random, addition, _SLIP))
    asked = {"role": "user", "content": addition.prompt}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def _pair(random: Random) -> dict[str, object]:
    """The right lines, and an attempt with at least one that is wrong."""
    addition = draw_addition(random)
    lines = addition.lines
    attempt = lines
    while attempt == lines:
        attempt = draw_attempt(random, addition, _SLIP_IN_STEPS)
    return {
        "prompt": addition.prompt,
        "chosen": SEPARATOR.join(lines),
        "rejected": SEPARATOR.join(attempt),
    }


def _solution(random: Random) -> dict[str, object]:
    addition = draw_addition(random)
    lines = draw_attempt(random, addition, _SLIP_IN_STEPS)
    labels = [float(right) for right in addition.verdicts(lines)]
    return {"prompt": addition.prompt, "steps": lines, "labels": labels}


def _plain_text(random: Random) -> dict[str, object]:
    """Sums in words' place: several to a line, and no carries."""
    additions = [draw_addition(random) for _ in range(4)]
    return {"text": ", ".join(f"{one.prompt}={one.lines[-1]}" for one in additions)}


# How a row of each use is drawn.
ROWS: Mapping[str, Callable[[Random], dict[str, object]]] = {
    "sft": _demonstration,
    "preferences": _pair,
    "prompts": _prompt,
    "evaluation": _prompt,
    "pretrain": _plain_text,
    "steps": _solution,
}
