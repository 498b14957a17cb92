from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.training.problems import base

from thalweg.errors import CheckpointError
from thalweg.potentials.painn import PaiNN, PaiNNSettings
from thalweg.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from thalweg.training.optimiser import Optimiser
from thalweg.training.run_folder import Identity
from thalweg.training.settings import OptimiserSettings

IDENTITY = Identity("a", "b", "c")


def painn(channels: int = 4, *, blank: bool = False) -> PaiNN:
    made = PaiNN(PaiNNSettings(species=(14,), channels=channels, layers=1, radial_functions=4))
    if blank:
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()
    return made


def stepped(potential: torch.nn.Module) -> Optimiser:
    optimiser = Optimiser(potential, OptimiserSettings())
    for update in range(3):
        for p in optimiser.parameters.values():
            p.grad = torch.sin(p.detach() + update)
        optimiser.step(update)
    return optimiser


def write(path: Path, potential: PaiNN | None = None) -> PaiNN:
    potential = potential or painn()
    save_checkpoint(
        path,
        command="tune",
        identity=IDENTITY,
        progress=Progress(3, {"best": 0.1 + 0.2, "none": None}),
        potential=potential,
        optimiser=stepped(potential),
    )
    return potential


def read(path: Path, command: str = "tune", identity: Identity = IDENTITY) -> None:
    potential = painn(blank=True)
    load_checkpoint(
        path,
        command=command,
        identity=identity,
        potential=potential,
        optimiser=Optimiser(potential, OptimiserSettings()),
    )


def refusal(path: Path, command: str = "tune", identity: Identity = IDENTITY) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path, command, identity)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def rewrite_header(path: Path, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["header"])
    save_file(load_file(path), path, {"header": json.dumps(header | changes)})


def test_what_is_read_is_bit_for_bit_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    written = write(path)
    again = painn(blank=True)
    optimiser = Optimiser(again, OptimiserSettings())
    progress = load_checkpoint(path, command="tune", identity=IDENTITY, potential=again, optimiser=optimiser)
    assert progress == Progress(3, {"best": 0.1 + 0.2, "none": None})
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), again.parameters(), strict=True))
    expected = stepped(painn()).state()
    assert all(torch.equal(v, expected[k]) for k, v in optimiser.state().items())


def test_a_checkpoint_before_the_first_step_has_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    potential = painn()
    save_checkpoint(
        path,
        command="tune",
        identity=IDENTITY,
        progress=Progress(0, {}),
        potential=potential,
        optimiser=Optimiser(potential, OptimiserSettings()),
    )
    read(path)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refusal(path)


def test_garbage_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"\x80\x04garbage" * 50)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "checkpoint version 2 cannot be read, this release reads 1"),
        ({"format": "thalweg potential"}, "its header says 'thalweg potential'"),
        ({"update": None}, "header incomplete"),
        ({"scalars": 3}, "header incomplete"),
        ({"identity": None}, "other settings (None, this run a)"),
        ({"potential": None}, "another potential"),
    ],
)
def test_another_header_is_refused_by_what_is_wrong_with_it(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    read(path)
    rewrite_header(path, **changes)
    assert said in refusal(path)


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    assert "other settings (a, this run x)" in refusal(path, identity=Identity("x", "b", "c"))
    assert "other structures (b, this run x)" in refusal(path, identity=Identity("a", "x", "c"))
    assert "other start potential (c, this run x)" in refusal(path, identity=Identity("a", "b", "x"))
    assert "written by 'tune', not 'train'" in refusal(path, command="train")


def test_another_potential_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write(path, painn(channels=5))
    assert "another potential (a painn with other settings than this painn)" in refusal(path)
    other = base()
    save_checkpoint(
        path,
        command="tune",
        identity=IDENTITY,
        progress=Progress(0, {}),
        potential=other,
        optimiser=Optimiser(other, OptimiserSettings()),
    )
    assert "a stillinger-weber with other settings" in refusal(path)


@pytest.mark.parametrize("prefix", ["model.", "optimiser."])
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(n for n in sorted(tensors) if n.startswith(prefix))
    del tensors[name]
    save_file(tensors, path, metadata)
    assert f"tensor {name.removeprefix(prefix)!r} has shape None" in refusal(path)


_FULL = """
import resource, signal, sys
from pathlib import Path
from thalweg.errors import OutputError
from tests.training.test_checkpoint import read, write
path = Path(sys.argv[1])
write(path)
before = path.read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
try:
    write(path)
except OutputError as error:
    print(error)
else:
    raise SystemExit("the second checkpoint was written although it could not be")
assert path.read_bytes() == before
assert [f.name for f in path.parent.iterdir()] == [path.name]
read(path)
"""


def test_when_the_disk_is_full_the_last_checkpoint_stays_whole(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk."""
    command = [sys.executable, "-c", _FULL, str(tmp_path / "c.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot write")
    assert done.stdout.count("\n") == 1
