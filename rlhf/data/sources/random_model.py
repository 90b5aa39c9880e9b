"""`random:LAYERSxWIDTH`: an untrained little Llama with its own tokenizer, for quick tests."""

import json
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.common.errors import SourceError
from rlhf.core.seeds import derive_seed
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, verified_result
from rlhf.data.sources.starter import starter_file

VOCABULARY = 1024
HEAD_WIDTH = 16
# ids 0, 1, 2 as in SmolLM2
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class RandomSource(Source):
    """Weights drawn with the run's seed; the tokenizer is learned from the starter texts."""

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        _layers_and_width(request)

    def fetch_model(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Make and save the model (fp32) and its tokenizer."""
        layers, width = _layers_and_width(request)
        # the global random stream stays as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(request.seed, "random model", request.address.detail))
            model = LlamaForCausalLM(_configuration(layers, width))
        model.save_pretrained(directory)
        learn_tokenizer(starter_texts()).save_pretrained(directory)
        return verified_result(request, directory)


def _layers_and_width(request: FetchRequest) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", request.address.detail)
    if match is None or int(match[2]) % HEAD_WIDTH:
        raise SourceError(
            f"{request.address}: expected random:LAYERSxWIDTH (random:2x64), "
            f"WIDTH a multiple of {HEAD_WIDTH}"
        )
    return int(match[1]), int(match[2])


def _configuration(layers: int, width: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        num_key_value_heads=width // HEAD_WIDTH,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def learn_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of VOCABULARY tokens; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        # every byte has a token, so that any text can be written
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    pad, begin, end = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=pad, bos_token=begin, eos_token=end
    )


def starter_texts() -> list[str]:
    """Collect the answers and the plain text of the starter data."""
    texts: list[str] = []
    for name in ("pairs.jsonl", "pretrain.jsonl"):
        for line in starter_file(name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts.extend(row[key] for key in ("chosen", "rejected", "text") if key in row)
    return texts
