"""Foreign torch modules: opened by name, kept in files that run nothing unasked, refused where they detach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.cli.terminal import complaint, thalweg
from torch import Tensor, nn

from thalweg.errors import CheckpointError, PotentialError
from thalweg.potentials import build_potential
from thalweg.potentials.adapters.code import VARIABLE, allow_code, allowed_code, require_consent
from thalweg.potentials.adapters.torch_energy import TorchEnergy, TorchEnergySettings
from thalweg.potentials.files import load_potential, save_potential
from thalweg.potentials.opening import open_potential
from thalweg.potentials.reference import Reference
from thalweg.structures.batch import Structures

FACTORY = f"{Path(__file__).parents[3] / 'docs' / 'examples' / 'torch_morse.py'}:make"
WORDS = f"{FACTORY}?species=Si&cutoff=4.2&width=4"


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


class Springs(nn.Module):
    """E = Σ_edges k (d² − s²)²; broken below, one way each."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.01, dtype=torch.float64))

    def pairs(self, vectors: Tensor) -> Tensor:
        return self.k * (vectors.square().sum(dim=1) - 5.0).square()

    def forward(self, vectors: Tensor, centre: Tensor, owner: Tensor, cell: Tensor) -> Tensor:
        return cell.new_zeros(len(cell)).index_add(0, owner[centre], self.pairs(vectors))


class Detached(Springs):
    def pairs(self, vectors: Tensor) -> Tensor:
        return super().pairs(vectors.detach())


class PartlyDetached(Springs):
    def pairs(self, vectors: Tensor) -> Tensor:
        return super().pairs(vectors) * torch.exp(-0.2 * vectors.detach().square().sum(dim=1))


class OnceOnly(Springs):
    """First derivative right, second wrong."""

    def pairs(self, vectors: Tensor) -> Tensor:
        e = vectors.square().sum(dim=1) - 5.0
        return self.k * (2 * e * e.detach() - e.detach().square())


class NotTwice(Springs):
    """torch.cdist has no second derivative."""

    def pairs(self, vectors: Tensor) -> Tensor:
        return self.k * torch.cdist(vectors, vectors.new_ones(1, 3))[:, 0].square()


class DeafForces(Springs):
    """The parameter only adds a constant."""

    def pairs(self, vectors: Tensor) -> Tensor:
        return 0.01 * (vectors.square().sum(dim=1) - 5.0).square() + self.k


class Random(Springs):
    def pairs(self, vectors: Tensor) -> Tensor:
        return nn.functional.dropout(super().pairs(vectors), p=0.5)


class PerAtom(Springs):
    def forward(self, vectors: Tensor, centre: Tensor, owner: Tensor, cell: Tensor) -> Tensor:
        return cell.new_zeros(len(owner)).index_add(0, centre, self.pairs(vectors))


class Asking(Springs):
    def forward(self, vectors: Tensor, centers: Tensor) -> Tensor:
        return vectors


class Failing(Springs):
    def forward(self, **given: Tensor) -> Tensor:
        return given["positions"] @ given["positions"]


class Empty(nn.Module):
    def forward(self, positions: Tensor) -> Tensor:
        return positions


def adapted(module: nn.Module) -> TorchEnergy:
    return TorchEnergy(TorchEnergySettings(species=(14,), cutoff=4.2, factory="mine:make"), module)


def test_whole_module_passes_the_probe_that_every_broken_one_fails() -> None:
    assert adapted(Springs()).conservative


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Detached, "detached from the positions, so there are no forces"),
        (PartlyDetached, "wrong first derivative"),
        (OnceOnly, "wrong second derivative"),
        (NotTwice, "cannot be differentiated twice"),
        (DeafForces, "reach none of its 1 parameters"),
        (Random, r"switch off what is random in it, e\.g\. dropout"),
        (PerAtom, r"gives torch\.float64 \(7,\) for 2 structures"),
        (Asking, "asks for 'centers' in its forward: did you mean 'centre'"),
        (Failing, "fails on a probe of 7 atoms: RuntimeError"),
        (Empty, "no parameters that learn"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_module_that_cannot_be_trained_through_is_refused_in_one_line(module: type[nn.Module], says: str) -> None:
    with pytest.raises(PotentialError, match=says) as refusal:
        adapted(module())
    assert "\n" not in str(refusal.value)


def test_float32_is_probed_alike(silicon8: Structures) -> None:
    assert adapted(Springs().float())(silicon8.to(dtype=torch.float32)).forces.dtype == torch.float32
    with pytest.raises(PotentialError, match="wrong first derivative"):
        adapted(PartlyDetached().float())
    with pytest.raises(PotentialError, match="wrong second derivative"):
        adapted(OnceOnly().float())


def test_module_of_two_floating_types_is_refused() -> None:
    module = Springs()
    module.other = nn.Parameter(torch.zeros(1, dtype=torch.float32))
    with pytest.raises(PotentialError, match=r"torch\.float32, torch\.float64: convert them to one"):
        adapted(module)


def test_all_arguments_arrive(silicon8: Structures) -> None:
    seen = {}

    class Curious(Springs):
        def forward(self, **given: Tensor) -> Tensor:
            seen.update(given)
            return super().forward(given["vectors"], given["centre"], given["owner"], given["cell"])

    adapted(Curious())(silicon8)
    shift = (seen["shift"].unsqueeze(1) @ seen["cell"][seen["owner"][seen["centre"]]]).squeeze(1)
    x = seen["positions"]
    assert torch.equal(seen["numbers"], silicon8.numbers)
    assert bool(seen["pbc"].all())
    torch.testing.assert_close(x[seen["neighbour"]] - x[seen["centre"]] + shift, seen["vectors"], rtol=0, atol=1e-12)


def test_typed_name_opens_and_settings_rebuild_it_the_same(silicon8: Structures) -> None:
    typed = open_potential(f"torch:{WORDS}")
    assert isinstance(typed, TorchEnergy)
    assert typed.settings == {
        "species": [14],
        "seed": 0,
        "factory": FACTORY,
        "cutoff": 4.2,
        "options": {"width": 4},
    }
    built = build_potential("torch", typed.settings)
    x = silicon8.to(dtype=torch.float32)
    assert torch.equal(built(x).forces, typed(x).forces)
    other = build_potential("torch", {**typed.settings, "seed": 1})
    assert not torch.equal(other(x).forces, typed(x).forces)


def test_building_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    open_potential(f"torch:{WORDS}")
    assert torch.equal(torch.get_rng_state(), before)


def test_file_runs_its_code_only_when_that_name_was_allowed(
    tmp_path: Path, silicon8: Structures, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    potential = open_potential(f"torch:{WORDS}")
    potential.set_reference(Reference({14: -4.0}, 1.5))  # type: ignore[operator]
    save_potential(path, potential)
    x = silicon8.to(dtype=torch.float32)
    assert torch.equal(load_potential(path)(x).energy, potential(x).energy)
    monkeypatch.setenv(VARIABLE, "another:make")
    ran = []
    monkeypatch.setattr("thalweg.potentials.adapters.code.find_factory", lambda name: ran.append(name))
    with pytest.raises(CheckpointError, match=f"{VARIABLE}=.*torch_morse.py:make"):
        open_potential(str(path))
    with pytest.raises(PotentialError, match="was not allowed"):
        build_potential("torch", potential.settings)
    assert ran == []


def test_consent_is_for_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a:make, b.c:make")
    assert allowed_code() == {"a:make", "b.c:make"}
    allow_code("d.py:make")
    for name in ("a:make", "b.c:make", "d.py:make"):
        require_consent(name)
    with pytest.raises(PotentialError, match="'a:other', which was not allowed"):
        require_consent("a:other")


def test_weights_of_the_module_are_read(tmp_path: Path, silicon8: Structures) -> None:
    first = open_potential(f"torch:{WORDS}&seed=3")
    assert isinstance(first, TorchEnergy)
    save_file(first.module.state_dict(), tmp_path / "weights.safetensors")
    second = open_potential(f"torch:{WORDS}&weights={tmp_path / 'weights.safetensors'}")
    x = silicon8.to(dtype=torch.float32)
    assert torch.equal(first(x).forces, second(x).forces)
    with pytest.raises(PotentialError, match="do not fit"):
        open_potential(f"torch:{WORDS.replace('width=4', 'width=5')}&weights={tmp_path / 'weights.safetensors'}")
    torch.save(first.module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(PotentialError, match=r"cannot be read .* give a \.safetensors file"):
        open_potential(f"torch:{WORDS}&weights={tmp_path / 'weights.pt'}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("mymodels", "does not name a factory"),
        ("absent_module_of_nobody:make?species=Si&cutoff=4", "there is no module 'absent_module_of_nobody'"),
        ("absent.py:make?species=Si&cutoff=4", "there is no file absent.py"),
        ("torch.nn:Linaer?species=Si&cutoff=4", "did you mean 'Linear'"),
        ("torch.nn:Linear?species=Si&cutoff=4&width=3", r"called with \(width=3\) fails: TypeError"),
        ("collections:Counter?species=Si&cutoff=4", "makes a Counter: needed is a torch.nn.Module"),
        ("torch.nn:Linear?species=Si", "needs the setting 'cutoff': how far its neighbours reach"),
        ("torch.nn:Linear?cutoff=4", "needs the setting 'species'"),
        ("torch.nn:Linear?species=Sx&cutoff=4", "has 'Sx': allowed are symbols"),
        ("torch.nn:Linear?species=Si&cutoff=-4", "'cutoff' is -4"),
        ("torch.nn:Linear?species", "option 'species'"),
        ("torch.nn:Linear?cutoff=4&cutoff=5", "each key once"),
    ],
)
def test_bad_words_are_one_line(words: str, says: str) -> None:
    with pytest.raises(PotentialError, match=says) as refusal:
        open_potential(f"torch:{words}")
    assert "\n" not in str(refusal.value)


def test_file_that_fails_when_imported_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    for _ in range(2):  # a failed import leaves nothing behind
        bad.write_text("import torch\nraise ValueError('two\\nlines')\n")
        with pytest.raises(PotentialError, match="fails: ValueError: two lines; mend the file"):
            open_potential(f"torch:{bad}:make?species=Si&cutoff=4")


def test_command_refuses_a_file_with_code_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_potential(path, open_potential(f"torch:{WORDS}"))
    monkeypatch.setenv(VARIABLE, "")
    complaint(thalweg("relax", path, tmp_path / "x.extxyz", "--out", tmp_path / "y.extxyz"), VARIABLE)
