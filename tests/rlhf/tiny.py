"""A language of 64 words: two-layer models, prepared tables, settings, simulated processes."""

import copy
import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.batches.tables import write_table
from rlhf.common.files import weights_sha256
from rlhf.common.yaml import parse_yaml
from rlhf.core.steps import read_steps
from rlhf.models.dpo import DpoNote, save_dpo_model
from rlhf.models.heads import new_scalar_model, save_process_model, save_scalar_model
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.rollout.prompts import PromptBatch
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.workspace import Workspace

PAD, EOS, START, GOOD, BAD = 0, 1, 2, 3, 4
VOCABULARY = 64
# which ten words contain, from w10 to w19: each ends a step
SEPARATOR = "w1"
# endings of the metrics that no two runs share
TIMES = ("seconds", "_per_second")


def tiny_model(seed: int = 0, std: float = 0.02, tied: bool = True) -> LlamaForCausalLM:
    """`std` is that of the weights: 0.02 gives nearly uniform predictions, 0.2 peaked ones."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=std,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=START,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


# a chat template for the tiny tokenizer, which has none
TURNS = (
    "{% for m in messages %}<|im_start|> {{ m['content'] }} <|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> {% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = [
        "<pad>",
        "<|im_end|>",
        "<|im_start|>",
        "good",
        "bad",
        *(f"w{n}" for n in range(5, VOCABULARY)),
    ]
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
    )


def words(random: torch.Generator, low: int, high: int) -> list[int]:
    """Between `low` and `high` word ids, both included."""
    count = int(torch.randint(low, high + 1, (1,), generator=random))
    return torch.randint(GOOD + 2, VOCABULARY, (count,), generator=random).tolist()


def text_of(ids: Sequence[int]) -> str:
    return tiny_tokenizer().decode(list(ids), skip_special_tokens=True)


def prompts_of(
    ids: Sequence[list[int]],
    positions: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    references: Sequence[str | None] | None = None,
) -> PromptBatch:
    """A batch of prompts; positions count from 0 and each gets one response unless told otherwise."""
    count = len(ids)
    places = list(range(count)) if positions is None else list(positions)
    return PromptBatch(
        ids=list(ids),
        kinds=["helpful"] * count,
        texts=[text_of(prompt) for prompt in ids],
        messages=[[{"role": "user", "content": text_of(prompt)}] for prompt in ids],
        references=[None] * count if references is None else list(references),
        table_rows=places,
        positions=places,
        response_numbers=[0] * count if numbers is None else list(numbers),
    )


def make_workspace(root: Path) -> Workspace:
    """A base model, random stand-ins for its sft, reward, dpo and process models, and the tables."""
    workspace, tokenizer = Workspace(root), tiny_tokenizer()
    save_causal_lm(tiny_model(0), tokenizer, workspace.model("base"))
    save_causal_lm(tiny_model(1, std=0.1), tokenizer, workspace.model("sft"))
    reward = new_scalar_model(workspace.model("sft"), 2, "reward")
    save_scalar_model(reward, tokenizer, workspace.model("reward"), "reward", score_std=0.5)
    note = DpoNote(0.1, "sigmoid", weights_sha256(workspace.model("sft")))
    save_dpo_model(moved_top(workspace.model("sft")), tokenizer, workspace.model("dpo"), note)
    process = new_scalar_model(workspace.model("sft"), 5, "process")
    save_process_model(process, tokenizer, workspace.model("process"), SEPARATOR)
    workspace.prepared.mkdir(parents=True)
    random = torch.Generator().manual_seed(3)
    splits = {"sft": {"train": 24, "validation": 6}, "pretrain": {"train": 10, "validation": 4}}
    splits["preferences"] = {"train": 48, "gold": 16, "validation": 12, "test": 24}
    splits["prompts"] = {"train": 40, "validation": 6, "test": 4}
    splits["steps"] = {"train": 48, "validation": 12, "test": 24}
    for table, counts in splits.items():
        rows = []
        for split, count in counts.items():
            for number in range(count):
                rows.append(_row(table, split, number, random))
        write_table(workspace.prepared, table, rows)
    return workspace


@torch.no_grad()
def moved_top(directory: Path, size: float = 0.05) -> PreTrainedModel:
    """A model whose upper layer is another than that of the one in `directory`, as after training it."""
    model = load_causal_lm(directory)
    random = torch.Generator().manual_seed(5)
    for name, value in model.named_parameters():
        if "layers.1." in name:
            value.add_(size * torch.randn(value.shape, generator=random))
    return model


def _row(table: str, split: str, number: int, random: torch.Generator) -> dict[str, Any]:
    row = {
        "id": f"{table}-{split}-{number}",
        "kind": "helpful" if number % 2 else "harmless",
        "split": split,
        "source": "made",
    }
    return row | _CONTENT[table](random, number)


def _dialogue(prompt: Sequence[int]) -> dict[str, Any]:
    return {
        "opening": text_of(prompt),
        "messages": json.dumps([{"role": "user", "content": text_of(prompt)}]),
    }


def _sft_row(random: torch.Generator, number: int) -> dict[str, Any]:
    """Always the same answer, which is soon learnt; what is asked is random and cannot be."""
    prompt = [START, *words(random, 1, 4)]
    answer = [GOOD, BAD, GOOD, EOS]
    messages = [
        {"role": "user", "content": text_of(prompt)},
        {"role": "assistant", "content": text_of(answer)},
    ]
    masks = [False] * len(prompt) + [True] * len(answer)
    return _dialogue(prompt) | {
        "messages": json.dumps(messages),
        "input_ids": prompt + answer,
        "loss_mask": masks,
    }


def _pair_row(random: torch.Generator, number: int) -> dict[str, Any]:
    """The chosen answer has the word `good` in it, the rejected one `bad`."""
    prompt = [START, *words(random, 1, 4)]
    chosen, rejected = (
        [*words(random, 0, 3), marker, *words(random, 0, 3), EOS] for marker in (GOOD, BAD)
    )
    return _dialogue(prompt) | {
        "unseen_opening": number % 4 == 0,
        "chosen": text_of(chosen),
        "rejected": text_of(rejected),
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
    }


def _prompt_row(random: torch.Generator, number: int) -> dict[str, Any]:
    prompt = [START, *words(random, 1, 6)]
    return _dialogue(prompt) | {"prompt_ids": prompt}


def _text_row(random: torch.Generator, number: int) -> dict[str, Any]:
    ids = words(random, 12, 12)
    return {"text": text_of(ids), "input_ids": ids, "kind": "plain"}


def _solution_row(random: torch.Generator, number: int) -> dict[str, Any]:
    """A step is right if the word `good` is in it, wrong if `bad` is; some steps have no label.

    Two answers to each prompt, the first of them all right.
    """
    prompt = [START, *words(torch.Generator().manual_seed(number // 2), 1, 4)]
    count = 2 + number % 3
    response: list[int] = []
    ends, labels = [], []
    for place in range(count):
        right = number % 2 == 0 or place % 2 == 0
        fillers = torch.randint(20, VOCABULARY, (number % 4,), generator=random).tolist()
        closing = EOS if place == count - 1 else 10 + place
        response += [*fillers, GOOD if right else BAD, closing]
        ends.append(len(response) - 1)
        labels.append(None if (number + place) % 5 == 0 else float(right))
    return _dialogue(prompt) | {
        "separator": SEPARATOR,
        "prompt_ids": prompt,
        "response_ids": response,
        "step_ends": ends,
        "labels": labels,
    }


_CONTENT = {
    "sft": _sft_row,
    "preferences": _pair_row,
    "prompts": _prompt_row,
    "pretrain": _text_row,
    "steps": _solution_row,
}


def tiny_settings(changes: Mapping[str, Any] | None = None) -> Settings:
    """The preset `tiny` with some keys changed, each given by its path: {"ppo.epochs": 2}."""
    return settings_from(changed(parse_yaml(preset_text("tiny"), "tiny"), changes or {}))


def changed(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set keys of nested dictionaries by their paths."""
    for path, value in changes.items():
        *sections, key = path.split(".")
        node = content
        for section in sections:
            node = node[section]
        # a section may be changed further: that of the caller stays
        node[key] = copy.deepcopy(value)
    return content


def write_settings(workspace: Workspace, settings: Settings) -> None:
    """Put settings where a worker reads them (JSON is YAML too)."""
    workspace.params.write_text(settings.model_dump_json(by_alias=True), encoding="utf-8")


# -- comparing runs -----------------------------------------------------------------------------


def same_models(left: Path, right: Path) -> bool:
    """Whether two model directories hold the same weights."""
    one, two = (load_causal_lm(path).state_dict() for path in (left, right))
    return all(torch.equal(one[name], two[name]) for name in one)


def numbers(path: Path) -> list[dict[str, Any]]:
    """The rows of a step log or a summary, without the times."""
    if path.suffix == ".jsonl":
        rows = read_steps(path)
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content if isinstance(content, list) else [content]
    return [{key: value for key, value in row.items() if not key.endswith(TIMES)} for row in rows]


def outcome(workspace: Workspace, stage: str, model: str) -> dict[str, Any]:
    """All that a training stage wrote, in a form that two runs can be compared by."""
    metrics = sorted((workspace.root / "metrics").glob(f"{stage}[._]*"))
    logs = {path.name: numbers(path) for path in metrics}
    files = {path.name: path.read_bytes() for path in workspace.model(model).glob("*.safetensors")}
    assert f"{stage}.json" in logs and f"{stage}.jsonl" in logs and files
    return {**logs, **files}


# -- processes ----------------------------------------------------------------------------------


def simulate_processes(
    count: int, work: Callable[[int, Callable[[Tensor], Tensor]], Any]
) -> list[Any]:
    """Run `work(rank, all_sum)` in as many threads, whose `all_sum` adds up what all of them pass."""
    barrier, slots = threading.Barrier(count), [torch.zeros(0)] * count

    def run(rank: int) -> Any:
        def all_sum(value: Tensor) -> Tensor:
            slots[rank] = value.clone()
            barrier.wait()
            total = torch.stack(slots).sum(dim=0)
            barrier.wait()
            return total

        try:
            return work(rank, all_sum)
        except BaseException:
            # the others would wait for this one for ever
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def copy_workspace(workspace: Workspace, root: Path) -> Workspace:
    shutil.copytree(workspace.root, root, dirs_exist_ok=True)
    return Workspace(root)


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
