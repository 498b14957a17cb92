from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thalweg.errors import SettingsError
from thalweg.training.processes import Job, Processes, launch
from thalweg.training.settings import DeviceSettings


def test_shares_cover_a_batch_once_whatever_the_number_of_processes() -> None:
    for world in (1, 2, 3, 7):
        shares = [Processes(torch.device("cpu"), rank, world).share(range(5)) for rank in range(world)]
        assert sorted(k for share in shares for k in share) == list(range(5))


def test_one_process_imports_nothing_and_sums_nothing() -> None:
    code = (
        "import sys; from thalweg.training.processes import Job, launch; "
        "from thalweg.training.settings import DeviceSettings; "
        "print(launch(DeviceSettings(accelerator='cpu'), lambda p, job: p.world, Job(None))); "
        "print('lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"device\.accelerator is 'cuda', but this machine has no CUDA"):
        launch(DeviceSettings(accelerator="cuda"), lambda processes, job: None, Job(None))


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.two_processes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moved"] > 1e-3
    assert found["difference"] < 1e-6
    assert found["devices"] == [1, 2]
    assert found["seen"] == [[0, 1, 2, 3]] * 2
    assert found["scores"][1] == pytest.approx(found["scores"][0], rel=1e-6)
    assert found["ids"][0] == found["ids"][1]
    assert found["replay"][1] == pytest.approx(found["replay"][0], rel=1e-6)
    assert found["weights"][1] == pytest.approx(found["weights"][0], rel=1e-6)
    assert found["weights"][0] > 0
    assert found["refused"].startswith("cannot make the run folder")
