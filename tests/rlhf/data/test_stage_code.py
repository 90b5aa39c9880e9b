"""Which code the stages of the data run: what DVC takes for stale follows from it."""

from pathlib import Path

from rlhf.core.source import closure


def data_files_of(module: str) -> set[str]:
    folder = Path("rlhf/data")
    paths = (path for path in closure([module]) if folder in path.parents)
    return {path.relative_to(folder).as_posix() for path in paths}


def test_prepare_does_not_depend_on_how_data_is_fetched() -> None:
    files = data_files_of("rlhf.data.prepare")
    assert {"prepare.py", "files.py", "uses.py", "split.py"} <= files
    assert not {"fetch.py", "base_model.py"} & files
    assert not {name for name in files if name.startswith("sources/")}


def test_fetch_depends_on_no_source_before_one_is_chosen() -> None:
    assert data_files_of("rlhf.data.fetch") == {
        "base_model.py",
        "fetch.py",
        # which files of a folder are data
        "files.py",
        "proofs.py",
        "templates.py",
        "uses.py",
        "window.py",
        "sources/__init__.py",
        "sources/base.py",
    }
