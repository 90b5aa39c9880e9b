"""The stage `fetch`: the base model and the raw data, pinned and hashed.

It is the only stage that touches a network.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from rlhf.common.address import Address
from rlhf.common.errors import RlhfError, SourceError
from rlhf.common.files import staged_directory, tree_bytes, writing
from rlhf.common.metrics import Value, write_summary
from rlhf.data.base_model import finish_base_model
from rlhf.data.sources import FetchRequest, FetchResult, find_source
from rlhf.data.sources.base import MODEL
from rlhf.data.templates import Fit
from rlhf.data.uses import USES, addresses, raw_directory
from rlhf.data.window import check_layers, check_lengths
from rlhf.settings import Settings
from rlhf.workspace import Workspace

log = logging.getLogger(__name__)


def fetch(settings: Settings, workspace: Workspace) -> None:
    """Write `models/base`, `data/raw/<use>/<index>/` and `metrics/fetch.json`.

    Raises SourceError that names the setting. Whatever fails, neither model nor data are left
    behind.
    """
    # the log says what happens; bars of loading weights would break it up
    transformers_logging.disable_progress_bar()
    check_addresses(settings, workspace)

    # both take their final names once all of the block has gone well
    with staged_directory(workspace.model("base")) as model, staged_directory(workspace.raw) as raw:
        summary = _fetch_model(settings, workspace, model) | _fetch_data(settings, workspace, raw)
        sizes = [int(value or 0) for key, value in summary.items() if key.endswith("_bytes")]
        summary["bytes"] = sum(sizes)
        write_summary(workspace.metrics("fetch"), summary)


def check_addresses(settings: Settings, workspace: Workspace) -> None:
    """Refuse addresses that cannot be right, before anything is downloaded.

    Raises SourceError that names the setting.
    """
    _check_address(settings, workspace, "model.source", settings.model.source, MODEL)
    for use in USES:
        for address in addresses(settings, use):
            _check_address(settings, workspace, f"data.{use}", address, use)
    with _errors_naming("model.chat_template"):
        template = Address.parse(fit_of(settings, workspace).chat_template)
        if template.detail and not template.path.is_file():
            raise SourceError(f"{settings.model.chat_template}: no file {template.path}")


def fit_of(settings: Settings, workspace: Workspace) -> Fit:
    """How the settings want the tokenizer of the base model; raises RlhfError for a path that cannot be read."""
    model, template = settings.model, settings.model.chat_template
    if template.startswith("path:"):
        # relative paths start where params.yaml lies
        template = f"path:{workspace.root / Address.parse(template).path}"
    fold = model.system_messages == "fold"
    return Fit(template, model.add_tokens, model.pad_token, fold)


def _check_address(
    settings: Settings, workspace: Workspace, key: str, address: str, use: str
) -> None:
    with _errors_naming(key):
        source, parsed = find_source(address)
        request = FetchRequest(parsed, use, workspace.root, settings.seed)
        # both look at the address alone
        source.check_use(request)
        source.check(request)


def _fetch_model(settings: Settings, workspace: Workspace, directory: Path) -> dict[str, Value]:
    address = settings.model.source
    log.info("fetching the base model from %s", address)
    with _errors_naming("model.source"), writing(workspace.model("base")):
        source, parsed = find_source(address)
        request = FetchRequest(parsed, MODEL, workspace.root, settings.seed, settings.model.sha256)
        result = source.fetch_model(request, directory)
    # not every source writes a model that is ready for use
    with _errors_naming(f"model.source: {address}"), writing(workspace.model("base")):
        finish_base_model(directory, fit_of(settings, workspace))
    with _errors_naming(f"model.source: {address}"):
        check_lengths(settings, directory)
        check_layers(settings, directory)

    size = tree_bytes(directory)
    log.info("base model: %s, %.0f MB, sha256 %s", address, size / 1e6, result.sha256)
    return _summary("model", address, result, size)


def _fetch_data(settings: Settings, workspace: Workspace, raw: Path) -> dict[str, Value]:
    summary: dict[str, Value] = {}
    for use in USES:
        for index, address in enumerate(addresses(settings, use)):
            directory = raw_directory(raw, use, index)
            directory.mkdir(parents=True)
            with _errors_naming(f"data.{use}"):
                source, parsed = find_source(address)
                request = FetchRequest(parsed, use, workspace.root, settings.seed)
                result = source.fetch_data(request, directory)

            size = tree_bytes(directory)
            log.info("%s: %s, %.1f MB", use, address, size / 1e6)
            summary |= _summary(f"{use}_{index}", address, result, size)
    return summary


@contextmanager
def _errors_naming(key: str) -> Iterator[None]:
    """Put the setting that is at fault in front of messages."""
    try:
        yield
    except RlhfError as error:
        raise SourceError(f"{key}: {error}") from error


def _summary(name: str, address: str, result: FetchResult, size: int) -> dict[str, Value]:
    return {
        f"{name}_source": address,
        f"{name}_revision": result.revision,
        f"{name}_sha256": result.sha256,
        f"{name}_bytes": size,
    }
