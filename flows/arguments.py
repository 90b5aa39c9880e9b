"""What the command lines of the flows have in common: values that argparse refuses with a message."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.stages import STAGES


def assignment(text: str) -> tuple[str, Any]:
    """KEY=VALUE as a dotted key of the settings and its YAML value."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ArgumentTypeError(f"{text!r}: expected KEY=VALUE, for example ppo.kl.coefficient=0.1")
    try:
        return key, parse_yaml(value, f"--set {key}")
    except SettingsError as error:
        raise ArgumentTypeError(str(error)) from None


def stage_name(text: str) -> str:
    """The name of a stage of the chain."""
    if text not in STAGES:
        raise ArgumentTypeError(f"no stage {text!r}; there are: {', '.join(STAGES)}")
    return text


def add_targets(parser: ArgumentParser) -> None:
    """Add the stages to bring up to date, as `targets`."""
    text = "stage to bring up to date with all that it needs; all stages if none is named"
    parser.add_argument("targets", nargs="*", type=stage_name, metavar="STAGE", help=text)


def add_settings(parser: ArgumentParser, text: str) -> None:
    """Add `--set KEY=VALUE`, which may be repeated, as the pairs `set`; `text` is its help."""
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="KEY=VALUE", help=text
    )


def pool_of_stage(text: str) -> tuple[str, str]:
    """STAGE=POOL as a stage of the chain and the name of a work pool."""
    stage, equals, pool = text.partition("=")
    if not (equals and pool):
        raise ArgumentTypeError(f"{text!r}: expected STAGE=POOL, for example ppo=gpu")
    return stage_name(stage), pool


def add_pools(parser: ArgumentParser) -> None:
    """Add `--pool STAGE=POOL`, which may be repeated, as the pairs `pool`."""
    text = "let a worker of a work pool run a stage, for example ppo=gpu; may be repeated"
    parser.add_argument(
        "--pool", type=pool_of_stage, action="append", default=[], metavar="STAGE=POOL", help=text
    )
