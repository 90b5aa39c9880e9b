"""From answers in steps to the rows of the table `steps`."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.core.separators import StepFinder
from rlhf.data.encode import (
    DropReason,
    EncodedRow,
    Exchange,
    TableEncoder,
    as_json,
    notes_of,
    record_of,
    why_no_prompt,
)
from rlhf.data.records import Messages, Solution, as_list
from rlhf.data.split import Candidate, opening_of
from rlhf.data.tokens import ChatEncoder, EncodedPrompt, EncodedResponse


@dataclass(frozen=True)
class EncodedSolution:
    """Tokens of an answer in steps.

    step_ends: positions of each step's last token, as far as it is there
    rewritten: whether the template would write the steps otherwise, so that they are not found in it
    """

    ids: list[int]
    step_ends: list[int]
    truncated: bool
    rewritten: bool


class SolutionEncoder:
    """Encodes the candidates of the table `steps`.

    Columns messages, separator, prompt_ids, response_ids, step_ends and labels. A step that the cut at
    `max_response_tokens` leaves unfinished has no end and no label.
    """

    def __init__(self, table_encoder: TableEncoder) -> None:
        """Raises ModelError for a separator that is not found in its own tokens."""
        self._table_encoder = table_encoder
        self._encoder = table_encoder.encoder
        self._separator = table_encoder.data.step_separator
        self._finder = StepFinder(self._encoder.tokenizer, self._separator)

    def __call__(self, rows: Sequence[Candidate]) -> list[EncodedRow | DropReason]:
        """One result for each candidate, in their order."""
        solutions = [record_of(candidate, Solution) for candidate in rows]
        prompts = self._encoder.prompts([solution.messages for solution in solutions])
        fitting = [
            (prompt.messages, solution)
            for prompt, solution in zip(prompts, solutions, strict=True)
            if prompt is not None
        ]
        encoded = iter(
            encode_solutions(
                self._encoder,
                [messages for messages, _ in fitting],
                [solution for _, solution in fitting],
                self._separator,
            )
        )
        return [
            why_no_prompt(self._encoder, solution.messages)
            if prompt is None
            else self._result(solution, prompt, next(encoded))
            for prompt, solution in zip(prompts, solutions, strict=True)
        ]

    def _result(
        self, solution: Solution, prompt: EncodedPrompt, encoded: EncodedSolution
    ) -> EncodedRow | DropReason:
        # 1. what holds for any table
        exchange = Exchange(
            solution.messages, {f"step {n}": s for n, s in enumerate(solution.steps)}
        )
        responses = {"response": EncodedResponse(encoded.ids, encoded.truncated)}
        opening = opening_of(prompt.messages)
        reason = self._table_encoder.drop_reason(exchange, opening, responses)
        if reason is not None:
            return reason
        if encoded.rewritten:
            return "template_rewrites_steps"

        # 2. Sampled responses are searched for ends: these must be found there too. A step with a
        #    separator in it would be two.
        ends = encoded.step_ends
        if self._finder.ends(encoded.ids) != ends:
            return "separator_in_step"
        labels = list(solution.labels[: len(ends)])
        if all(label is None for label in labels):
            return "no_label_once_cut"

        columns = {
            "opening": opening,
            "messages": as_json(as_list(prompt.messages)),
            "separator": self._separator,
            "prompt_ids": prompt.ids,
            "response_ids": encoded.ids,
            "step_ends": ends,
            "labels": labels,
        }
        return EncodedRow(columns, notes_of(exchange, prompt, responses))


def encode_solutions(
    encoder: ChatEncoder,
    prompts: Sequence[Messages],
    solutions: Sequence[Solution],
    separator: str,
) -> list[EncodedSolution]:
    """Encode answers in steps, cut off at max_response tokens.

    Each step is tokenised with the separator behind it, by itself, so that a line end does not join the
    next step's first blanks in one token. Behind the last one stands what ends the answer, where it is
    finished.
    """
    around = [
        _around_steps(encoder, messages, solution, separator)
        for messages, solution in zip(prompts, solutions, strict=True)
    ]
    texts_of_rows = [
        _texts(solution, places or ("", ""), separator)
        for solution, places in zip(solutions, around, strict=True)
    ]
    # all steps in one batch, dealt out again; each goes on from what stands before it
    tokens = iter(encoder.going_on([text for texts in texts_of_rows for text in texts]))

    encoded = []
    for texts, places in zip(texts_of_rows, around, strict=True):
        ids: list[int] = []
        ends: list[int] = []
        for _ in texts:
            ids += next(tokens)
            ends.append(len(ids) - 1)
        limit = encoder.max_response
        kept = [place for place in ends if place < limit]
        encoded.append(EncodedSolution(ids[:limit], kept, len(ids) > limit, places is None))
    return encoded


def _around_steps(
    encoder: ChatEncoder, messages: Messages, solution: Solution, separator: str
) -> tuple[str, str] | None:
    """What stands before the first step and behind the last; None where the template writes them otherwise.

    Before the first one a template may put blanks, as `plain` does.
    """
    whole = separator.join(solution.steps)
    answer = encoder.answer_text(messages, whole)
    place = answer.find(whole)
    is_written = place >= 0 and not answer[:place].strip()
    if not solution.finished:
        return answer[:place] if is_written else "", separator
    return (answer[:place], answer[place + len(whole) :]) if is_written else None


def _texts(solution: Solution, around: tuple[str, str], separator: str) -> list[str]:
    before, behind = around
    texts = [*(step + separator for step in solution.steps[:-1]), solution.steps[-1] + behind]
    return [before + texts[0], *texts[1:]]
