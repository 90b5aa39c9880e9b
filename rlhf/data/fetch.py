"""The stage `fetch`: bring the base model and the raw data, pinned and hashed. The only stage that touches a network."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from rlhf.common.errors import RlhfError, SourceError
from rlhf.common.files import staged_directory, tree_bytes, writing
from rlhf.common.metrics import Value, write_summary
from rlhf.data.base_model import finish_base_model
from rlhf.data.sources import Brought, Request, find_source
from rlhf.settings import Settings
from rlhf.workspace import Workspace

USES = ("sft", "preferences", "prompts", "evaluation", "pretrain")

log = logging.getLogger(__name__)


def fetch(settings: Settings, workspace: Workspace) -> None:
    """Write `models/base`, `data/raw/<use>/<index>/` and `metrics/fetch.json`; raises SourceError that names the setting.

    What fails last leaves no model behind either.
    """
    transformers_logging.disable_progress_bar()
    check_addresses(settings, workspace)
    with staged_directory(workspace.model("base")) as model, staged_directory(workspace.raw) as raw:
        summary = _fetch_model(settings, workspace, model) | _fetch_data(settings, workspace, raw)
        summary["bytes"] = sum(
            int(value or 0) for key, value in summary.items() if key.endswith("_bytes")
        )
        write_summary(workspace.metrics("fetch"), summary)


def check_addresses(settings: Settings, workspace: Workspace) -> None:
    """Refuse addresses that cannot be right, before anything is downloaded; raises SourceError that names the setting."""
    named = [("model.source", settings.model.source, "model")]
    named += [(f"data.{use}", address, use) for use in USES for address in addresses(settings, use)]
    for key, address, use in named:
        with _asked_for_by(key):
            source, rest = find_source(address)
            request = Request(address, rest, use, workspace.root, settings.seed)
            source.refuse_other_use(request)
            source.check(request)


def addresses(settings: Settings, use: str) -> tuple[str, ...]:
    """Give the source addresses of one use, in the order of their `<index>`."""
    return getattr(settings.data, use)


def _fetch_model(settings: Settings, workspace: Workspace, directory: Path) -> dict[str, Value]:
    address = settings.model.source
    log.info("fetching the base model from %s", address)
    with _asked_for_by("model.source"), writing(workspace.model("base")):
        source, rest = find_source(address)
        request = Request(
            address, rest, "model", workspace.root, settings.seed, settings.model.sha256
        )
        brought = source.bring_model(request, directory)
    with _asked_for_by(f"model.source: {address}"), writing(workspace.model("base")):
        finish_base_model(directory, settings.model.chat_template)
    size = tree_bytes(directory)
    log.info("base model: %s, %.0f MB, sha256 %s", address, size / 1e6, brought.sha256)
    return _lines("model", address, brought, size)


def _fetch_data(settings: Settings, workspace: Workspace, directory: Path) -> dict[str, Value]:
    summary: dict[str, Value] = {}
    for use in USES:
        for index, address in enumerate(addresses(settings, use)):
            target = directory / use / str(index)
            target.mkdir(parents=True)
            with _asked_for_by(f"data.{use}"):
                source, rest = find_source(address)
                brought = source.bring_data(
                    Request(address, rest, use, workspace.root, settings.seed), target
                )
            size = tree_bytes(target)
            log.info("%s: %s, %.1f MB", use, address, size / 1e6)
            summary |= _lines(f"{use}_{index}", address, brought, size)
    return summary


@contextmanager
def _asked_for_by(key: str) -> Iterator[None]:
    try:
        yield
    except RlhfError as error:
        raise SourceError(f"{key}: {error}") from error


def _lines(name: str, address: str, brought: Brought, size: int) -> dict[str, Value]:
    return {
        f"{name}_source": address,
        f"{name}_revision": brought.revision,
        f"{name}_sha256": brought.sha256,
        f"{name}_bytes": size,
    }


def raw_directory(workspace: Workspace, use: str, index: int) -> Path:
    """Where `fetch` put the files of one address."""
    return workspace.raw / use / str(index)
