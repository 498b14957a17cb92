from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from thalweg.errors import SettingsError
from thalweg.gradients import ROUTES, AdjointSettings, Implicit, Split, Unrolled
from thalweg.relaxation import FIRE, LBFGS, Descent
from thalweg.training.loading import dump_settings, load_settings, settings_hash
from thalweg.training.settings import RelaxationSettings, TrainSettings, TuneSettings


def refusal(*overrides: str, model: type = TuneSettings, path: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(model, path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text
    assert "For further information" not in text
    return text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.updates=3", "optimizer is not a setting; did you mean 'optimiser'?"),
        ("optimiser.update=3", "optimiser.update is not a setting; did you mean 'updates'?"),
        ("route.horizn=3", "route.horizn is not a setting; did you mean 'horizon'?"),
        ("route.adjoint.tolerence=1e-3", "route.adjoint.tolerence is not a setting; did you mean 'tolerance'?"),
        ("route={kind: implicit, horizon: 3}", "route.horizon is not a setting; known: adjoint"),
        ("route.kind=splitt", "route 'splitt' is not known; did you mean 'split'?"),
        ("relaxation.finish=lbgfs", "finisher 'lbgfs' is not known; did you mean 'lbfgs'?"),
        ("augment=rotations", "augment"),
    ],
)
def test_an_unknown_name_is_refused_with_its_full_key_and_the_nearest_known(override: str, said: str) -> None:
    assert said in refusal(override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("relaxation.steps=0", "relaxation.steps is 0: allowed is 1 or more"),
        ("relaxation.steps=-3", "relaxation.steps is -3"),
        ("relaxation.fmax=.nan", "relaxation.fmax is nan"),
        ("relaxation.alpha=-0.1", "relaxation.alpha is -0.1"),
        ("optimiser.updates=three", "optimiser.updates is 'three': it should be a whole number"),
        ("optimiser.updates=2.5", "optimiser.updates is 2.5"),
        ("optimiser.clip=true", "optimiser.clip is True"),
        ("optimiser=3", "optimiser is 3"),
        ("seed.x=1", "seed is {'x': 1}"),
        ("optimiser.warmup=200", "warmup is 200, but there are 100 updates"),
        ("route.horizon=2.5", "route.horizon is 2.5: it should be a whole number"),
        ("route.recompute=1", "route.recompute is 1: it should be true or false"),
        ("route.states=0", "route.states is 0: allowed is 1 or more"),
        ("route.adjoint.tolerance=1", "adjoint tolerance is 1"),
        ("route.adjoint.tolerance=exact", "route.adjoint.tolerance is 'exact': it should be a number or 'auto'"),
        ("route.horizon=80", "route.horizon is 80, but the relaxation makes 75 updates"),
        ("route.horizon=0", "route.horizon is 0"),
        ("device.dtype=float16", "device.dtype is 'float16'"),
        ("seed", "not of the form key=value"),
        ("a..b=1", "not of the form key=value"),
        ("seed=[1", "not valid YAML at line 1"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_it(override: str, said: str) -> None:
    assert said in refusal(override)


def test_of_several_faults_the_first_is_told_and_unknown_keys_come_first() -> None:
    text = refusal("seed=x", "optimiser.updates=-1", "objektive.delta=1")
    assert "objektive is not a setting; did you mean 'objective'?" in text
    assert "(and 2 more)" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: 1\nseed: 2\n", "the key 'seed' occurs twice"),
        (b"seed: [1\n", "not valid YAML at line"),
        (b"\tseed: 1\n", "not valid YAML at line 1"),
        (b"- seed\n", "settings are a mapping"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"{[1]: 2}\n", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_the_file(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    text = refusal(path=file)
    assert str(file) in text
    assert said in text


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "there is no such settings file" in refusal(path=tmp_path / "none.yaml")


def test_later_wins_and_values_are_read_as_yaml(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 3\noptimiser: {learning_rate: 1e-4, clip: null}\n")
    found = load_settings(TuneSettings, file, ["seed=4", "seed=5", "relaxation.alpha=3E-2"])
    assert found.seed == 5
    assert found.optimiser.learning_rate == 1e-4
    assert found.optimiser.clip is None
    assert found.optimiser.updates == TuneSettings().optimiser.updates
    assert found.relaxation.alpha == 0.03


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("")
    assert load_settings(TuneSettings, file) == TuneSettings()


def test_a_section_given_in_part_keeps_the_defaults_of_its_command() -> None:
    found = load_settings(TrainSettings, None, ["optimiser.batch=4"])
    assert found.optimiser == TrainSettings().optimiser.model_copy(update={"batch": 4})
    assert found.optimiser.learning_rate != TuneSettings().optimiser.learning_rate


def test_keys_of_a_potential_are_passed_on() -> None:
    found = load_settings(TrainSettings, None, ["potential.channels=8"])
    assert (found.potential.kind, found.potential.values) == ("painn", {"channels": 8})


@pytest.mark.parametrize("kind", sorted(ROUTES))
def test_every_route_survives_writing_and_reading(kind: str, tmp_path: Path) -> None:
    settings = TuneSettings(route=ROUTES[kind](), seed=7)
    file = tmp_path / "settings.yaml"
    file.write_text(dump_settings(settings))
    assert load_settings(TuneSettings, file) == settings
    assert yaml.safe_load(file.read_text())["route"]["kind"] == kind


def test_a_mapping_becomes_the_frozen_route() -> None:
    text = "route={kind: split, horizon: 12, states: 4, adjoint: {tolerance: 1e-5}}"
    route = load_settings(TuneSettings, None, [text]).route
    assert route == Split(horizon=12, states=4, adjoint=AdjointSettings(tolerance=1e-5))
    assert load_settings(TuneSettings, None, ["route.horizon=9"]).route == Split(horizon=9)
    assert load_settings(TuneSettings, None, ["route.kind=unrolled"]).route == Unrolled()


def test_the_path_holds_what_the_settings_say() -> None:
    path = RelaxationSettings(alpha=0.02, cap=0.1, steps=30, finish="fire", fmax=0.01, max_steps=50).path()
    assert path.update == Descent(0.02, 0.1)
    assert (path.steps, path.finish, path.fmax, path.max_steps) == (30, FIRE(), 0.01, 50)
    assert RelaxationSettings().path(0.03).update.alpha == 0.03
    assert RelaxationSettings().path(0.03).finish == LBFGS()
    alone = RelaxationSettings(finish="descent", cap=0.1).path(0.03)
    assert alone.finish == alone.update == Descent(0.03, 0.1)


def test_the_hash_ignores_where_and_on_how_many_devices() -> None:
    one = load_settings(TuneSettings)
    other = load_settings(
        TuneSettings,
        None,
        [
            "out=elsewhere",
            "device.devices=4",
            "device.accelerator=cpu",
            "checkpoint_every=7",
            "overwrite=true",
        ],
    )
    assert settings_hash(one) == settings_hash(other)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "device.dtype=float64",
        "relaxation.steps=74",
        "route.horizon=19",
        "route.adjoint.tolerance=2e-4",
        "route.kind=unrolled",
        "objective.delta=2.0",
        "optimiser.updates=99",
        "validate_every=9",
        "minima=3",
    ],
)
def test_the_hash_knows_everything_that_changes_the_result(override: str) -> None:
    assert settings_hash(load_settings(TuneSettings, None, [override])) != settings_hash(TuneSettings())


def test_the_hash_tells_routes_with_the_same_fields_apart() -> None:
    assert settings_hash(TuneSettings(route=Implicit())) != settings_hash(TuneSettings(route=Split()))
