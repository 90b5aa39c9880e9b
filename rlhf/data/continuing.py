"""A tokenizer for text that goes on from other text, as an answer does from its prompt."""

import json
from typing import Any

from tokenizers import Tokenizer


def continuing_backend(backend: Tokenizer) -> Tokenizer | None:
    """The tokenizer for text that goes on: without the blank that SentencePiece puts before a text.

    None where a tokenizer puts none.
    """
    described = json.loads(backend.to_str())
    found = (
        without_first_blank(described["normalizer"]),
        without_first_blank(described["pre_tokenizer"]),
    )
    if found == (described["normalizer"], described["pre_tokenizer"]):
        return None
    normalizer, pre_tokenizer = found
    changed = described | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    return Tokenizer.from_str(json.dumps(changed))


def without_first_blank(part: Any) -> Any:
    """A normaliser or pre-tokeniser, as tokenizer.json describes it, that puts nothing before a text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        kept = [found for one in part[key] if (found := without_first_blank(one)) is not None]
        return part | {key: kept}
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    return part | {"add_prefix_space": False} if "add_prefix_space" in part else part
