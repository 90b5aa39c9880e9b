"""From answers in steps to the rows of the table `steps`."""

from collections.abc import Sequence

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
from rlhf.data.records import Solution, as_list
from rlhf.data.split import Candidate, opening_of
from rlhf.data.tokens import EncodedPrompt, EncodedResponse, EncodedSolution


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
            self._encoder.solutions(
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
