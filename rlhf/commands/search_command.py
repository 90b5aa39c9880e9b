"""`rlhf search`: the likeliest answers of a model, by beam search."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf.commands.context import CliContext
from rlhf.common.errors import ModelError, RlhfError


def search(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="A user's message.")],
    beams: Annotated[str, typer.Option(help="Widths to compare, such as 1,2,5.")] = "1,2,5",
    model: Annotated[Path, typer.Option(help="A model directory.")] = Path("models/dpo"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
) -> None:
    """Search for a model's likeliest answer with several widths of the beam.

    By log pi of the whole answer, without division by its length: searching by a DPO model's own
    reward comes to the same. The end token ends an answer; one without it is cut off.

    \b
    rlhf search "How do I boil an egg?" --beams 1,5
    """
    # before anything is loaded
    widths = _widths(beams)

    # torch and transformers take seconds to import
    from rlhf.commands.chat import printable
    from rlhf.core.reach import longest_text
    from rlhf.core.tokenizers import end_ids
    from rlhf.data.records import Message
    from rlhf.data.tokens import ChatEncoder
    from rlhf.engine.single import TorchEngine
    from rlhf.models.saving import load_causal_lm, load_tokenizer
    from rlhf.rollout.beam import beam_search
    from rlhf.settings.training import EngineSettings

    cli: CliContext = context.obj
    directory = cli.workspace.root / model
    tokenizer = load_tokenizer(directory)
    encoder = ChatEncoder(tokenizer, 1 << 20, max_new_tokens)
    (encoded,) = encoder.prompts([(Message("user", prompt),)])
    assert encoded is not None
    policy = TorchEngine(EngineSettings()).frozen(load_causal_lm(directory))
    window = longest_text(policy.config)
    if window and len(encoded.ids) + max_new_tokens > window:
        raise ModelError(
            f"{len(encoded.ids)} tokens of prompt and {max_new_tokens} of an answer are more than "
            f"the model's window of {window} (--max-new-tokens)"
        )
    ends = end_ids(tokenizer, policy.generation_config)
    for width in widths:
        best, *_ = beam_search(policy, encoded.ids, width, max_new_tokens, ends[0], ends[1:])
        text = printable(str(tokenizer.decode(best.response, skip_special_tokens=True)).strip())
        cut = "" if best.finished else ", cut off"
        typer.echo(f"beams {width}: log pi {best.logprob:.3f}, {len(best.response)} tokens{cut}")
        typer.echo(f"{text}\n")


def _widths(text: str) -> list[int]:
    """Positive numbers with commas between them; raises RlhfError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise RlhfError(f"--beams {text}: expected numbers from 1 on, such as 1,2,5")
    return [int(part) for part in parts]
