from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.training import problems

from thalweg.errors import PotentialError, SettingsError, StructureError
from thalweg.potentials.contract import Potential
from thalweg.potentials.files import load_potential
from thalweg.structures.extended_xyz import read_frames, write_frames
from thalweg.structures.pairs import Frames, Pairs
from thalweg.structures.store import convert
from thalweg.training.objective import objective
from thalweg.training.processes import Processes, Report
from thalweg.training.run import RunResult
from thalweg.training.run_folder import Identity
from thalweg.training.settings import TuneSettings
from thalweg.training.stored import whole_set
from thalweg.training.tuning import TuneJob, _Tuning, tune

SHARE = "replay={share: 0.4, batch: 3}"


class StoppedError(Exception):
    """Stands for a kill between two updates."""


@pytest.fixture(scope="module")
def data() -> tuple[Pairs, Pairs]:
    return problems.pairs(6, 1), problems.pairs(3, 2)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return problems.frames(5, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: tuple[Pairs, Pairs], frames: Frames) -> RunResult:
    """An undisturbed run with replay."""
    return tune(problems.settings(tmp_path_factory.mktemp("w") / "run", SHARE), problems.base(), *data, replay=frames)


def lines(result: RunResult) -> list[dict[str, Any]]:
    return problems.records(result.folder / "metrics.jsonl")


def task(told: TuneSettings, potential: Potential, pairs: Pairs, replay: Frames | None) -> _Tuning:
    job = TuneJob(None, told, Identity("", "", ""), potential, pairs, None, replay)
    found = _Tuning(Processes(torch.device("cpu")), job)
    found.begin()
    return found


def gradients(told: TuneSettings, pairs: Pairs, replay: Frames | None) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return the gradients of the first update before it is taken, and its record."""
    tuning = task(told, problems.base(), pairs, replay)
    kept: list[torch.Tensor] = []
    step = tuning.optimiser.step

    def keep(update: int) -> object:
        kept.extend(g.clone() for g in tuning.optimiser.gradients())
        return step(update)

    tuning.optimiser.step = keep  # type: ignore[method-assign, assignment]
    record = tuning.step(0).record
    assert record is not None
    return kept, record


def test_a_share_of_nothing_is_no_replay(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    plain, record = gradients(problems.settings(tmp_path), data[0], None)
    assert all(record[f"replay_{k}"] is None for k in ("loss", "energy_loss", "force_loss", "gradient_norm", "weight"))
    assert sum(float(g.square().sum()) for g in plain) ** 0.5 == pytest.approx(record["gradient_norm"])


def test_the_weight_gives_replay_its_share_of_the_first_gradient_and_is_kept(
    whole: RunResult, data: tuple[Pairs, Pairs]
) -> None:
    told = lines(whole)[1:]
    _, plain = gradients(problems.settings(Path("none")), data[0], None)
    weight, norm = told[0]["replay_weight"], told[0]["replay_gradient_norm"]
    assert weight * norm / (weight * norm + plain["gradient_norm"]) == pytest.approx(0.4, rel=1e-12)
    assert {line["replay_weight"] for line in told} == {weight}
    assert (whole.results["replay_weight"], whole.results["replay_frames"]) == (weight, 5)
    for line in told:
        assert line["replay_loss"] == pytest.approx(line["replay_energy_loss"] + line["replay_force_loss"], rel=1e-12)
        assert line["replay_loss"] > 0


def test_frames_of_a_store_are_replayed_as_those_of_a_file_are_bit_for_bit(
    tmp_path: Path, whole: RunResult, data: tuple[Pairs, Pairs], frames: Frames
) -> None:
    write_frames(tmp_path / "frames.extxyz", frames)
    convert(tmp_path / "frames.extxyz", tmp_path / "store", dtype="float64")
    told = problems.settings(tmp_path / "run", SHARE)
    stored = tune(told, problems.base(), *data, replay=whole_set(tmp_path / "store"))
    ours, theirs = (
        [{k: v for k, v in line.items() if k not in ("seconds", "peak_bytes")} for line in lines(result)[1:]]
        for result in (stored, whole)
    )
    assert ours == theirs
    assert stored.results["replay_frames"] == 5


def test_frames_of_a_store_that_cannot_be_replayed_are_refused(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames
) -> None:
    strange = replace(frames, structures=replace(frames.structures, numbers=frames.structures.numbers * 0 + 3))
    for name, some in (("plain", frames), ("lithium", strange)):
        write_frames(tmp_path / f"{name}.extxyz", some)
        convert(tmp_path / f"{name}.extxyz", tmp_path / name)
    for name, share, error, line in (
        ("lithium", SHARE, PotentialError, "contains Li"),
        ("plain", "replay={share: 0.4, batch: 9}", SettingsError, "replay.batch is 9, but there are 5 frames"),
        (
            "plain",
            "replay={share: 0.4, batch: 3, matching: {stress_weight: 1.0}}",
            StructureError,
            "none of 5 frames has a stress",
        ),
    ):
        with pytest.raises(error, match=line):
            tune(problems.settings(tmp_path / "run", share), problems.base(), *data, replay=whole_set(tmp_path / name))


def test_the_gradient_is_that_of_the_sum_of_both_losses(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    """Central differences in float64 of L_tune + w L_match, which this test puts together itself."""
    frames = problems.frames(3, 3)
    told = problems.settings(
        tmp_path,
        "route={kind: unrolled}",
        "relaxation={steps: 6, alpha: 0.02}",
        "replay={weight: 7.0, batch: 3, matching: {energy_weight: 0.5, force_weight: 2.0, energy_scale: 0.05}}",
    )
    chosen = sorted(problem_batch(told, len(data[0])))
    part = data[0].select(chosen)

    def loss(potential: Potential) -> float:
        ends = told.route.differentiate(potential, part.starts, told.relaxation.path())
        tuned = float(objective(ends, part.minima, told.objective, batch=3).total.detach())
        found = potential(frames.structures)
        energy = ((1 + ((found.energy - frames.energy) / 7 / 0.05).square()).sqrt() - 1).mean()
        force = ((1 + (found.forces - frames.forces).square().sum(dim=1) / 0.09).sqrt() - 1).mean()
        return tuned + 7.0 * float(0.5 * energy + 2.0 * force)

    found, _ = gradients(told, data[0], frames)
    potential = problems.base()
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in potential.parameters()]
    wanted = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
    seen = []
    for h in (3e-5, 1e-5, 3e-6):
        ends = []
        for sign in (1, -1):
            moved = problems.base()
            with torch.no_grad():
                for p, d in zip(moved.parameters(), directions, strict=True):
                    p.add_(sign * h * d)
            ends.append(loss(moved))
        seen.append((ends[0] - ends[1]) / (2 * h))
    assert seen == pytest.approx([wanted] * 3, rel=2e-6)
    alone, _ = gradients(problems.settings(tmp_path, "route={kind: unrolled}", "relaxation={steps: 6, alpha: 0.02}"),
                         data[0], None)  # fmt: skip
    short = sum(float((g * d).sum()) for g, d in zip(alone, directions, strict=True))
    assert abs(short - wanted) > 1e-2 * abs(wanted)  # the differences would have noticed a missing term


def problem_batch(told: TuneSettings, count: int) -> list[int]:
    from thalweg.seeds import torch_stream

    stream = torch_stream(told.seed, "tune-batch", 0)
    order: list[int] = torch.randperm(count, generator=stream).tolist()
    return order[: told.optimiser.batch]


def test_an_interrupted_run_with_replay_goes_on_bit_for_bit(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames, whole: RunResult
) -> None:
    told = problems.settings(tmp_path, SHARE, "checkpoint_every=3")  # stopped two updates after a checkpoint
    cut = resumed(told, data, frames)
    assert cut.model.read_bytes() == whole.model.read_bytes()
    assert cut.best.read_bytes() == whole.best.read_bytes()
    for key in ("loss", "replay_loss", "replay_gradient_norm", "replay_weight"):
        assert [x[key] for x in lines(cut)[1:]] == [x[key] for x in lines(whole)[1:]]


def resumed(told: TuneSettings, data: tuple[Pairs, Pairs], frames: Frames, *, forget: bool = False) -> RunResult:
    """Stop a run after five updates and go on; on demand the checkpoint forgets the weight in between."""

    def stop(report: Report) -> None:
        if report.update == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        tune(told, problems.base(), *data, replay=frames, progress=stop)
    if forget:
        path = told.out / "checkpoint.safetensors"
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["header"])
        header["scalars"]["task"]["replay_weight"] = None
        save_file(load_file(path), path, {"header": json.dumps(header)})
    return tune(told, problems.base(), *data, replay=frames)


def test_a_run_resumed_without_its_weight_ends_elsewhere(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames, whole: RunResult
) -> None:
    """The negative control of the test of resuming."""
    cut = resumed(problems.settings(tmp_path, SHARE), data, frames, forget=True)
    assert cut.model.read_bytes() != whole.model.read_bytes()


def test_replay_keeps_the_errors_of_the_frames_smaller(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames
) -> None:
    updates = "optimiser={updates: 12, batch: 3, warmup: 2, learning_rate: 1e-2}"
    plain = tune(problems.settings(tmp_path / "a", updates), problems.base(), data[0])
    told = problems.settings(tmp_path / "b", updates, "replay={share: 0.9, batch: 5}")
    with_replay = tune(told, problems.base(), data[0], replay=frames)

    def error(result: RunResult) -> float:
        found = load_potential(result.model)(frames.structures)
        return float((found.forces - frames.forces).square().mean().sqrt())

    assert error(with_replay) < 0.5 * error(plain)  # found: 0.10 and 0.49 eV/Å, 0.28 before


def test_frames_make_the_run_another(whole: RunResult, data: tuple[Pairs, Pairs], frames: Frames) -> None:
    told = problems.settings(whole.folder, SHARE)
    assert tune(told, problems.base(), *data, replay=frames).already_finished
    with pytest.raises(SettingsError, match="other structures"):
        tune(told, problems.base(), *data, replay=problems.frames(5, 4))
    with pytest.raises(SettingsError, match=r"replay\.share is 0\.4 there and 0\.3 here"):
        tune(problems.settings(whole.folder, "replay={share: 0.3, batch: 3}"), problems.base(), *data, replay=frames)


def test_an_update_in_which_no_structure_took_part_replays_nothing(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames
) -> None:
    told = problems.settings(
        tmp_path,
        SHARE,
        "route={kind: implicit}",
        "relaxation={steps: 1, max_steps: 0, alpha: 0.001}",
        "optimiser={updates: 2, batch: 2, warmup: 0}",
    )
    result = tune(told, problems.base(), data[0], replay=frames)
    assert [x["skipped"] for x in lines(result)] == ["no structure took part"] * 2
    assert [x["replay_weight"] for x in lines(result)] == [None, None]
    assert result.results["replay_weight"] is None


def test_no_weight_is_measured_from_a_gradient_that_is_not_finite(
    tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thalweg.training import tuning

    honest, calls = tuning.objective, []

    def poisoned_once(*args: object, **kwargs: object) -> object:
        loss = honest(*args, **kwargs)  # type: ignore[arg-type]
        if not calls:
            loss.total.register_hook(lambda gradient: gradient * torch.nan)
        calls.append(1)
        return loss

    monkeypatch.setattr(tuning, "objective", poisoned_once)
    told = problems.settings(tmp_path, SHARE, "optimiser={updates: 2, batch: 2, warmup: 0}", "route.kind=unrolled")
    result = tune(told, problems.base(), data[0], replay=frames)
    assert [x["skipped"] for x in lines(result)] == ["the gradient is not finite", None]
    assert lines(result)[0]["replay_weight"] is None
    assert lines(result)[1]["replay_weight"] > 0


def test_frames_that_are_fitted_already_give_no_weight(tmp_path: Path, data: tuple[Pairs, Pairs]) -> None:
    base = problems.base()
    structures = problems.starts(5, 3)
    label = base(structures)
    fitted = Frames(structures, label.energy, label.forces, structures.ids)
    with pytest.raises(SettingsError, match=r"fits these frames to rounding; give replay\.weight"):
        tune(problems.settings(tmp_path, SHARE), base, data[0], replay=fitted)


def test_faults_of_replay_are_told_before_any_work(tmp_path: Path, data: tuple[Pairs, Pairs], frames: Frames) -> None:
    out, pairs, base = tmp_path / "run", data[0], problems.base()
    told = problems.settings(out, SHARE)
    broken = Frames(frames.structures, frames.energy, frames.forces.clone(), frames.parents)
    broken.forces[9, 1] = torch.nan
    cases: list[tuple[TuneSettings, Potential, Frames | None, type[Exception], str]] = [
        (told, base, None, SettingsError, r"replay\.share is 0\.4, but there are no frames to replay"),
        (problems.settings(out, "replay.weight=2.0"), base, None, SettingsError, r"replay\.weight is 2\.0, but"),
        (problems.settings(out), base, frames, SettingsError, r"replay\.share is 0 and replay\.weight null"),
        (told, base, frames.select([]), StructureError, "there are no frames to replay in the set"),
        (told, base, frames.select([0, 1]), SettingsError, r"replay\.batch is 3, but there are 2 frames"),
        (told, base, broken, StructureError, "'small-3-1': the force label of atom 2 is"),
        (told, base, strange(frames), PotentialError, "contains Ge, which this stillinger-weber potential never saw"),
        (
            problems.settings(out, SHARE, "replay.matching={energy_weight: 0, force_weight: 0}"),
            *(base, frames, SettingsError, r"replay\.matching\.energy_weight and replay\.matching\.force_weight"),
        ),
    ]
    for settings, potential, replay, kind, text in cases:
        with pytest.raises(kind, match=text) as caught:
            tune(settings, potential, pairs, replay=replay)
        assert "\n" not in str(caught.value)
    assert not out.exists()


def strange(frames: Frames) -> Frames:
    """Return the frames with germanium in place of silicon."""
    atoms = frames.structures.to_atoms()
    for one in atoms:
        one.numbers[:] = 32
    return Frames(type(frames.structures).from_atoms(atoms), frames.energy, frames.forces, frames.parents)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("replay.share=1.0", "replay.share is 1.0: allowed is below 1"),
        ("replay.share=-0.1", "replay.share is -0.1: allowed is 0 or more"),
        ("replay={share: 0.2, weight: 1.0}", "replay: share is 0.2 and weight is 1.0: give one of them"),
        ("replay.shar=0.2", "replay.shar is not a setting; did you mean 'share'?"),
    ],
)
def test_settings_out_of_range_are_refused(override: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        problems.settings(Path("none"), override)
    assert str(caught.value) == f"settings: {text}"


def test_a_file_of_frames_without_forces_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    path.write_text('1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 energy=-1.0\nSi 0 0 0\n')
    with pytest.raises(StructureError, match="no forces") as caught:
        read_frames(path)
    assert "\n" not in str(caught.value)
