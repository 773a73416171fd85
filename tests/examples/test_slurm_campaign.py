import importlib.util
import re
import stat
import sys
from pathlib import Path

import dask
import numpy as np
import pytest

import uqms

pytest.importorskip("dask_jobqueue")
SCRIPT = Path(uqms.__file__).parents[1] / "examples" / "cluster" / "slurm_campaign.py"


@pytest.fixture
def example():
    with dask.config.set({"distributed.scheduler.default-task-durations": {}}):  # the example sets it for its process
        spec = importlib.util.spec_from_file_location("slurm_campaign", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def documented():
    """Return the job script that stands in the example's text, as one line for each command."""
    lines = re.findall(r"^#     (.*)$", SCRIPT.read_text(), flags=re.MULTILINE)
    return " ".join(lines).split()


def test_the_job_script_is_the_one_that_is_documented(example, tmp_path):
    folder = tmp_path / "certificates"
    with example.slurm_cluster(folder) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = sorted(folder.iterdir())
        assert len(files) == 3
        assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)
        script = script.replace(sys.executable, "PYTHON").replace(cluster.scheduler_address, "tls://ADDRESS")
        for file in files:
            script = script.replace(str(file), "CERTIFICATES")
        assert script.split() == documented()
    assert dask.config.get("distributed.scheduler.default-task-durations") == {"uqms": "10 minutes"}


@pytest.mark.slow
def test_the_campaign_runs_on_this_machine_with_encryption(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "WORK", tmp_path)
    monkeypatch.setattr(sys, "argv", ["slurm_campaign.py", "--local"])
    example.main()
    mean = float(capsys.readouterr().out)
    # Median times the lognormal's mean: 0.693 * 1.0 * 1.5 * exp(0.04), to the error of 64 Sobol points.
    np.testing.assert_allclose(mean, 0.693 * 1.5 * np.exp(0.04), rtol=0.01)
