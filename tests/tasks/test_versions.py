from pathlib import Path

from tasks.lineage import Lineage
from tasks.tracking import client_of, open_run
from tasks.versions import is_newest

LINEAGE = Lineage("c0ffee", False, "5e77", {"models/base": "ba5e.dir"}, {"sft.epochs": 1.0})


def test_an_alias_that_a_later_run_has_given_away_stays_there(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    first, second = (
        open_run(tmp_path, "ppo", "experiment", execution, LINEAGE, {})
        for execution in ("one", "two")
    )
    client = client_of(tmp_path)
    assert is_newest(first, "experiment-policy", "challenger")
    client.create_registered_model("experiment-policy")
    assert is_newest(first, "experiment-policy", "challenger")
    version = client.create_model_version("experiment-policy", str(tmp_path), second.run_id)
    client.set_registered_model_alias("experiment-policy", "challenger", str(version.version))
    assert not is_newest(first, "experiment-policy", "challenger")
    assert is_newest(second, "experiment-policy", "challenger")
    assert is_newest(first, "experiment-policy", None)
