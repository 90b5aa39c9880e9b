"""Whether the settings of a workspace can be used: the file, the addresses in it, the judges."""

import json
import subprocess
from pathlib import Path

from rlhf.commands.check import Check
from rlhf.common.address import Address
from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json
from rlhf.common.yaml import read_yaml
from rlhf.settings import Settings, load_settings
from rlhf.settings.teachers import judging_rewards
from rlhf.watched import refuse_unwatched_stages
from rlhf.workspace import Workspace

# without importing it, which takes long
_HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def settings_check(workspace: Workspace) -> tuple[Check, Settings | None]:
    """params.yaml, read as a stage reads it."""
    try:
        settings = load_settings(workspace.params)
    except RlhfError as error:
        advice = "correct the key, or `rlhf preset NAME` for a whole file"
        return Check("settings", "fault", str(error), advice), None
    engine = settings.engine
    used = f"{engine.kind}, {engine.precision}, {engine.processes} process(es)"
    found = f"{workspace.params}: {settings.model.source}, {used}"
    return Check("settings", "ok", found), settings


def addresses_check(workspace: Workspace, settings: Settings) -> Check:
    """Where model and data come from and what names rows go by, as far as can be checked without a network."""
    try:
        # takes seconds to import
        from rlhf.data.fetch import check_addresses

        check_addresses(settings, workspace)
    except (RlhfError, ImportError, OSError) as error:
        return Check("model and data", "fault", str(error), "fetch would refuse to begin")
    try:
        from rlhf.data.shapes.table import check_columns
        from rlhf.data.split import check_limits

        check_limits(settings.data.limits)
        check_columns(settings.data.columns)
    except RlhfError as error:
        return Check("model and data", "fault", str(error), "prepare would refuse to begin")
    data = settings.data
    used = (
        *data.sft,
        *data.preferences,
        *data.prompts,
        *data.evaluation,
        *data.pretrain,
        *data.steps,
    )
    addresses = dict.fromkeys([settings.model.source, *used])
    return Check("model and data", "ok", ", ".join(addresses))


def model_check(workspace: Workspace, settings: Settings) -> Check:
    """The base model's files and chat template, and whether the texts of the settings have room in its window.

    It is looked at where it lies, or as it was fetched; one that is not here yet, by `fetch` alone.
    """
    try:
        directory = _base_model(workspace, settings)
        if directory is None:
            return Check(
                "base model", "ok", "not here yet: fetch looks at its files and its window"
            )
        # these take seconds to import
        from rlhf.data.base_model import check_base_model, check_fit
        from rlhf.data.fetch import fit_of
        from rlhf.data.window import check_layers, check_lengths

        check_base_model(directory)
        # one that was fetched has been fitted
        if Address.parse(settings.model.source).kind == "path":
            check_fit(directory, fit_of(settings, workspace))
    except (RlhfError, ImportError, OSError) as error:
        found = f"model.source: {settings.model.source}: {error}"
        return Check("base model", "fault", found, "fetch would refuse it")
    try:
        check_lengths(settings, directory)
        check_layers(settings, directory)
    except RlhfError as error:
        advice = (
            "lower one of them, or take a model that reads longer texts, or has more layers; fetch "
            "would refuse it"
        )
        return Check("base model", "fault", str(error), advice)
    return Check(
        "base model", "ok", f"{directory}: its files, and its window and layers for these settings"
    )


def _base_model(workspace: Workspace, settings: Settings) -> Path | None:
    source = Address.parse(settings.model.source)
    if source.kind == "path":
        return workspace.root / source.path
    fetched = workspace.metrics("fetch")
    # what was fetched before may be another model
    if fetched.is_file() and read_json(fetched).get("model_source") == settings.model.source:
        return workspace.model("base") if workspace.model("base").is_dir() else None
    return None


def rewards_check(workspace: Workspace, settings: Settings) -> Check:
    """What `ppo.rewards` names, looked at as stage ppo does it, hours later.

    Functions are loaded; of classifiers the files and the configuration are read; of a judge of pairs
    the key is looked for.
    """
    sources = settings.ppo.rewards
    own = [source for source in sources if source.file is not None]
    elsewhere = [source for source in sources if source.address.kind == "hf"]
    found = {source.reward: source.reward for source in sources}
    try:
        # both take seconds to import, and most settings need nothing of them
        if own:
            from rlhf.rewards.python import own_function

            for source in own:
                own_function(source.address.detail)
        if elsewhere:
            from rlhf.models.classifier import check_classifier

            for source in elsewhere:
                try:
                    architecture = check_classifier(workspace.root / source.address.path)
                except RlhfError as error:
                    raise RlhfError(f"ppo.rewards: {source.reward}: {error}") from error
                found[source.reward] = f"{source.reward} ({architecture}, one label)"
        judge = Address.parse(settings.ppo.pair_judge or "")
        if judge.kind == "api":
            from rlhf.evaluation.endpoints import openai_client

            key = f"ppo.endpoints.{judge.detail}"
            openai_client(key, settings.ppo.endpoints[judge.detail])
            found[str(judge)] = f"{judge} ranks the pairs"
    except (RlhfError, ImportError, OSError) as error:
        return Check("rewards", "fault", str(error), "ppo would refuse to begin")
    return Check("rewards", "ok", ", ".join(found.values()))


def sampler_check(settings: Settings) -> Check:
    """The python of `ppo.sampling.vllm`, by which stage ppo starts a server: that it is there, and has vLLM."""
    vllm = settings.ppo.sampling.vllm
    if vllm is None:
        return Check("sampler", "ok", settings.ppo.sampling.sampler)
    if vllm.python is None:
        return Check("sampler", "ok", f"vllm at {vllm.address}: ppo looks for it when it begins")
    advice = "ppo would end at its first draw; rlhf/rollout/README.md shows how one is made"
    try:
        # takes seconds to import, and most settings need nothing of it
        from rlhf.rollout.vllm_server import python_of

        python = python_of(vllm)
        found = subprocess.run([python, "-I", "-c", _HAS_VLLM], capture_output=True, timeout=60)
    except (RlhfError, ImportError, OSError, subprocess.TimeoutExpired) as error:
        return Check("sampler", "fault", str(error), advice)
    if found.returncode:
        return Check("sampler", "fault", f"ppo.sampling.vllm.python: {python} has no vllm", advice)
    return Check("sampler", "ok", f"vllm of {python}")


def teacher_check(workspace: Workspace, settings: Settings) -> Check:
    """Whether a judge is the policy's teacher too: the model of gold, or the judge of its pairs."""
    if found := judging_rewards(settings, workspace.root):
        gold = f"evaluate.gold {settings.evaluate.gold or 'null, models/gold,'}"
        told = f"{gold} and ppo.rewards {', '.join(found)} are one model"
        advice = (
            "its verdicts will show how well the policy pleased its own teacher, not how good it is; "
            "have another model judge"
        )
        return Check("judge and reward", "note", told, advice)
    ranking = settings.ppo.pair_judge
    if ranking is not None and ranking in settings.evaluate.judges:
        told = f"{ranking} ranks the pairs that ppo learns from, and is among evaluate.judges"
        advice = "its verdicts will show how well the policy pleased it; let another one judge, too"
        return Check("judge and reward", "note", told, advice)
    return Check("judge and reward", "ok", "no model is both")


def code_check(workspace: Workspace, settings: Settings) -> Check:
    """Whether DVC sees a change of all that the stages run; each stage looks at all of them again when it begins."""
    try:
        refuse_unwatched_stages(workspace.root, settings)
    except RlhfError as error:
        return Check("code", "fault", str(error), "no stage would begin")
    return Check("code", "ok", "dvc.yaml lists what the stages run")


def locks_check(workspace: Workspace) -> Check:
    """DVC's own files, which a kill while they are written leaves torn: DVC then refuses to run."""
    rwlock, record = workspace.root / ".dvc" / "tmp" / "rwlock", workspace.root / "dvc.lock"
    try:
        torn = rwlock.is_file() and not isinstance(json.loads(rwlock.read_bytes()), dict)
    # json's error is one of these
    except ValueError:
        torn = True
    if torn:
        advice = f"where no DVC command runs: rm {rwlock} (`make repro` puts it aside by itself)"
        return Check("dvc locks", "fault", f"{rwlock}: torn, as after a kill", advice)
    try:
        torn = record.is_file() and not isinstance(read_yaml(record), dict)
    except RlhfError:
        torn = True
    if torn:
        advice = f"git checkout {record} (`make repro` puts it aside by itself)"
        return Check("dvc locks", "fault", f"{record}: cannot be read", advice)
    return Check("dvc locks", "ok", "whole")


def judges_check(workspace: Workspace, settings: Settings) -> Check:
    """Keys, files and directories that `evaluate.judges` and `evaluate.opponents` want.

    They are checked as `evaluate` checks them.
    """
    section = settings.evaluate
    names = ", ".join((*section.judges, *section.opponents))
    candidates = (*section.judges, *section.opponents.values())
    # gold has nothing to be looked at where it is the stage's model
    addresses = [
        address for address in candidates if ":" in address or (address == "gold" and section.gold)
    ]

    # responses in a file answer prompts, which prepare makes
    is_prepared = (workspace.prepared / "prompts.parquet").is_file()
    ready = [address for address in addresses if is_prepared or not address.startswith("file:")]
    if ready:
        try:
            # takes seconds to import, and most settings need nothing of it
            from rlhf.evaluation.evaluate import check_ready

            check_ready(settings, workspace, ready)
        except (RlhfError, ImportError, OSError) as error:
            return Check("judges", "fault", str(error), "evaluate would refuse to begin")
    if len(ready) < len(addresses):
        advice = "the responses in a file: can be looked at once prepare has made the prompts"
        return Check("judges", "note", names, advice)
    return Check("judges", "ok", names)
