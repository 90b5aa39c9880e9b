"""`planted:ROWS`: pairs of the small world that differ in one word, so that it is known where credit belongs.

The chosen answer is a good one. The rejected one is the same but for one word, in whose place stands
another one of the world. A model that has learnt from such pairs should give that word the blame
("From r to Q*", arXiv 2404.12358, section 5.1).

The rows depend on the order of the draws: a draw more or less gives other rows.
"""

import json
import re
from pathlib import Path
from random import Random

from rlhf.common.errors import SourceError
from rlhf.core.seeds import derive_seed
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, verified_result
from rlhf.data.sources.world import CARE, HARMS, THINGS, draw_question, good_answer, question_row

# what may stand in a word's place
WORDS = sorted(
    {word for thing, facts in THINGS.items() for word in (thing, *facts)} | {*CARE, *HARMS}
)


class PlantedSource(Source):
    """ROWS pairs, drawn with the run's seed."""

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        if not re.fullmatch(r"[1-9]\d*", request.address.detail):
            raise SourceError(f"{request.address}: expected planted:ROWS, such as planted:2000")
        if request.use != "preferences":
            raise SourceError(f"{request.address}: has nothing for data.{request.use}")

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Write `preferences.jsonl`."""
        self.check(request)
        random = Random(derive_seed(request.seed, "planted", request.use))
        lines = [json.dumps(_pair(random)) for _ in range(int(request.address.detail))]
        path = directory / f"{request.use}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return verified_result(request, directory)


def _pair(random: Random) -> dict[str, object]:
    question = draw_question(random)
    chosen = good_answer(question, random)
    return question_row(question) | {"chosen": chosen, "rejected": planted(chosen, random)}


def planted(answer: str, random: Random) -> str:
    """The answer with another word of the world in the place of one of its own; its stops stay."""
    # what lies between words, and the words: every second piece is a word
    pieces = re.split(r"([A-Za-z]+)", answer)
    place = random.choice(range(1, len(pieces), 2))
    others = [word for word in WORDS if word != pieces[place].lower()]
    word = random.choice(others)
    wrong = word.capitalize() if pieces[place][0].isupper() else word
    return "".join([*pieces[:place], wrong, *pieces[place + 1 :]])
