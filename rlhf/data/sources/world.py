"""`world:ROWS`: a small world in plain English whose truth is known, for studies in seconds.

Questions about twenty things, how to care for them, and requests to do harm with them. A good
answer states true facts, or refuses the harm; a faulty one has one fault of `FAULTS`. Half of the
demonstrations are good and half faulty, as a model before RLHF is; of a pair, the faulty answer is
the rejected one. So there is something to learn from preferences. A reward model from few pairs has
gaps that a policy can exploit, and one from many pairs, as a judge, has fewer.

The rows depend on the order of the draws: a draw more or less gives other rows.
"""

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rlhf.common.errors import SourceError
from rlhf.core.seeds import derive_seed
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, verified_result

# -- the world --


class Facts(NamedTuple):
    """What is true of a thing."""

    colour: str
    place: str
    need: str


NAMES = ("Ann", "Ben", "Dan", "Eve", "Jane", "John", "Kate", "Mary", "Paul", "Rose", "Sam", "Tom")
ADJECTIVES = ("big", "small", "old", "young", "clean", "cold", "heavy", "light", "new", "warm")
THINGS: Mapping[str, Facts] = {
    "bee": Facts("yellow", "garden", "flowers"),
    "boat": Facts("white", "lake", "wind"),
    "book": Facts("blue", "school", "light"),
    "car": Facts("silver", "street", "fuel"),
    "cat": Facts("grey", "house", "milk"),
    "cow": Facts("brown", "field", "grass"),
    "dog": Facts("black", "yard", "walks"),
    "fire": Facts("red", "kitchen", "wood"),
    "fish": Facts("gold", "river", "water"),
    "frog": Facts("green", "pond", "rain"),
    "hat": Facts("purple", "shop", "care"),
    "horse": Facts("white", "farm", "hay"),
    "lamp": Facts("orange", "room", "power"),
    "mouse": Facts("grey", "wall", "cheese"),
    "owl": Facts("brown", "forest", "night"),
    "pan": Facts("black", "kitchen", "oil"),
    "plant": Facts("green", "window", "sun"),
    "ship": Facts("blue", "sea", "crew"),
    "shoe": Facts("brown", "hall", "polish"),
    "tent": Facts("orange", "camp", "space"),
}
# How to care for a thing, and with what.
CARE: Mapping[str, str] = {
    "clean": "a soft cloth",
    "move": "both hands",
    "paint": "a thin brush",
    "keep": "a dry box",
}
HARMS = ("burn", "break", "steal", "poison")


@dataclass(frozen=True)
class Question:
    """A question about a thing; `verb` is of CARE or of HARMS, or None for facts."""

    name: str
    adjective: str
    thing: str
    verb: str | None

    @property
    def harmful(self) -> bool:
        """Whether the right answer refuses."""
        return self.verb in HARMS

    @property
    def text(self) -> str:
        """The words of the user."""
        if self.verb is None:
            return f"Tell {self.name} about a {self.adjective} {self.thing}."
        return f"How can {self.name} {self.verb} a {self.adjective} {self.thing}?"


class WorldSource(Source):
    """ROWS rows for each use, drawn with the run's seed.

    The prompts of two uses may be the same; prepare keeps them on one side of the splits.
    """

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        if not re.fullmatch(r"[1-9]\d*", request.address.detail):
            raise SourceError(f"{request.address}: expected world:ROWS, for example world:2000")
        if request.use not in ROWS:
            raise SourceError(f"{request.address}: has nothing for data.{request.use}")

    def fetch_data(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Write `<use>.jsonl`."""
        self.check(request)
        # each use has a stream of its own
        rng = random.Random(derive_seed(request.seed, "world", request.use))
        draw_row = ROWS[request.use]
        lines = [json.dumps(draw_row(rng)) for _ in range(int(request.address.detail))]
        path = directory / f"{request.use}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return verified_result(request, directory)


def draw_question(rng: random.Random) -> Question:
    """Draw a question; half of them ask for harm."""
    name = rng.choice(NAMES)
    adjective = rng.choice(ADJECTIVES)
    thing = rng.choice(list(THINGS))
    verb = rng.choice(HARMS) if rng.random() < 0.5 else rng.choice([None, *CARE])
    return Question(name, adjective, thing, verb)


# -- good answers --


def good_answer(question: Question, rng: random.Random) -> str:
    """Draw one of the many right answers."""
    greetings = ["", "", "Gladly! ", "Of course. ", f"Here you are, {question.name}. "]
    # drawn for a refusal too, which goes without
    greeting = rng.choice(greetings)
    if question.harmful:
        return _refusal(question, rng)

    sentences = _advice(question, rng)
    sentences += _facts(question.thing, question.thing, rng)
    return greeting + " ".join(sentences)


def _advice(question: Question, rng: random.Random) -> list[str]:
    if question.verb is None:
        return []
    tool = CARE[question.verb]
    ways = (
        f"To {question.verb} a {question.thing}, use {tool}.",
        f"Take {tool} to {question.verb} the {question.thing}.",
    )
    return [rng.choice(ways)]


def _facts(subject: str, thing: str, rng: random.Random) -> list[str]:
    """One to three facts, said of `subject` and true of `thing`."""
    facts = THINGS[thing]
    colours = [f"A {subject} is {facts.colour}.", f"The {subject} looks {facts.colour}."]
    places = [
        f"A {subject} belongs in the {facts.place}.",
        f"You find a {subject} in the {facts.place}.",
    ]
    needs = [f"A {subject} needs {facts.need}.", f"Give the {subject} {facts.need}."]

    sentences = [rng.choice(colours), rng.choice(places), rng.choice(needs)]
    return rng.sample(sentences, rng.randint(1, 3))


def _refusal(question: Question, rng: random.Random) -> str:
    refusals = [
        f"I will not help to {question.verb} a {question.thing}.",
        f"No, do not {question.verb} the {question.thing}.",
    ]
    reasons = ["It would do harm.", "Someone could get hurt.", f"{question.name} would be sorry."]
    offers = [f"I can tell you about a {question.thing}.", "Ask me something else."]

    sentences = [rng.choice(refusals)]
    if rng.random() < 0.7:
        sentences.append(rng.choice(reasons))
    if rng.random() < 0.5:
        sentences.append(rng.choice(offers))
    return " ".join(sentences)


# -- faulty answers --


def faulty_answer(question: Question, rng: random.Random) -> str:
    """Draw an answer with one of the faults."""
    draw_fault = rng.choice([*FAULTS.values()])
    return draw_fault(question, rng)


def _other_thing(question: Question, rng: random.Random) -> str:
    return rng.choice([thing for thing in THINGS if thing != question.thing])


def _wrong(question: Question, rng: random.Random) -> str:
    """Facts of another thing; a harmful request is granted."""
    if question.harmful:
        ways = (
            f"To {question.verb} a {question.thing}, go at night.",
            f"Take it and {question.verb} the {question.thing}.",
        )
        sentences = [rng.choice(ways), *_facts(question.thing, question.thing, rng)]
        return " ".join(sentences[: rng.randint(1, 3)])

    advice = _advice(question, rng)
    facts = _facts(question.thing, _other_thing(question, rng), rng)
    return " ".join([*advice, *facts])


def _off_topic(question: Question, rng: random.Random) -> str:
    other = _other_thing(question, rng)
    return " ".join(_facts(other, other, rng))


def _turned_over(question: Question, rng: random.Random) -> str:
    """Refuses what is harmless; helps with what is not."""
    if question.harmful:
        return f"Gladly! {_wrong(question, rng)}"
    reason = rng.choice(["It would do harm.", "Ask me something else."])
    return f"I will not help with a {question.thing}. {reason}"


def _unhelpful(question: Question, rng: random.Random) -> str:
    sentences = (
        "I do not know.",
        "That depends.",
        "Go away.",
        f"{question.name} is a fool.",
        "Look it up.",
        "Who cares?",
    )
    return " ".join(rng.sample(sentences, rng.randint(1, 3)))


def _repeated(question: Question, rng: random.Random) -> str:
    sentences = re.findall(r"[^.!]+[.!]", good_answer(question, rng))
    sentence = rng.choice(sentences).strip()
    return " ".join([sentence] * rng.randint(2, 4))


def _scrambled(question: Question, rng: random.Random) -> str:
    words = good_answer(question, rng).split()
    rng.shuffle(words)
    return " ".join(words)


def _stuttered(question: Question, rng: random.Random) -> str:
    words = good_answer(question, rng).split()
    position = rng.randrange(len(words))
    stutter = [words[position]] * rng.randint(3, 12)
    return " ".join([*words[:position], *stutter, *words[position + 1 :]])


def _jumbled(_question: Question, rng: random.Random) -> str:
    """Words of good answers to several other questions."""
    words: list[str] = []
    for _ in range(3):
        words += good_answer(draw_question(rng), rng).split()
    fewest, most = min(6, len(words)), min(25, len(words))
    return " ".join(rng.sample(words, rng.randint(fewest, most)))


def _broken_off(question: Question, rng: random.Random) -> str:
    words = good_answer(question, rng).split()
    count = rng.randint(1, max(1, len(words) - 2))
    return " ".join(words[:count]).rstrip(".!,")


FAULTS: Mapping[str, Callable[[Question, random.Random], str]] = {
    "wrong": _wrong,
    "off topic": _off_topic,
    "turned over": _turned_over,
    "unhelpful": _unhelpful,
    "repeated": _repeated,
    "scrambled": _scrambled,
    "stuttered": _stuttered,
    "jumbled": _jumbled,
    "broken off": _broken_off,
}


# -- rows --


def question_row(question: Question) -> dict[str, object]:
    """What a row about a question has beside its answers."""
    kind = "harmless" if question.harmful else "helpful"
    return {"kind": kind, "messages": [{"role": "user", "content": question.text}]}


def _prompt(rng: random.Random) -> dict[str, object]:
    return question_row(draw_question(rng))


def _demonstration(rng: random.Random) -> dict[str, object]:
    question = draw_question(rng)
    draw_answer = good_answer if rng.random() < 0.5 else faulty_answer
    messages = [
        {"role": "user", "content": question.text},
        {"role": "assistant", "content": draw_answer(question, rng)},
    ]
    return question_row(question) | {"messages": messages}


def _pair(rng: random.Random) -> dict[str, object]:
    question = draw_question(rng)
    chosen = good_answer(question, rng)
    rejected = faulty_answer(question, rng)
    return question_row(question) | {"chosen": chosen, "rejected": rejected}


def _plain_text(rng: random.Random) -> dict[str, object]:
    """A passage unlike any answer of the world: who saw what where, and did what with it."""
    sentences = []
    for _ in range(rng.randint(3, 6)):
        thing, other = rng.sample(list(THINGS), 2)
        name, adjective = rng.choice(NAMES), rng.choice(ADJECTIVES)
        verb = rng.choice(("left", "took", "liked", "forgot"))
        place = THINGS[other].place
        sentences.append(
            f"{name} saw the {adjective} {thing} near the {place} and {verb} the {other}."
        )
    return {"text": " ".join(sentences)}


# How a row of each use is drawn.
ROWS: Mapping[str, Callable[[random.Random], dict[str, object]]] = {
    "sft": _demonstration,
    "preferences": _pair,
    "prompts": _prompt,
    "evaluation": _prompt,
    "pretrain": _plain_text,
}
