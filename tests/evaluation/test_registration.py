"""Registration: frozen once, deaf to layout, and refusing every other change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thalweg.errors import RunFolderError, SettingsError
from thalweg.evaluation.registration import checked, read_registration, register

TEXT = "title: small\nseeds: [0, 1]\ndata: {pairs: 20}\ntune: {optimiser: {updates: 12}}\n"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "protocol.yaml"
    path.write_text(TEXT)
    return path


def test_a_registration_holds_content_hash_date_and_code(protocol: Path) -> None:
    found, already = register(protocol)
    record = json.loads((protocol.parent / "registration.json").read_text())
    assert not already
    assert record["hash"] == found.hash
    assert record["date"].endswith("+00:00")
    assert record["code"]["version"]
    assert record["content"] == {
        "title": "small",
        "seeds": [0, 1],
        "data": {"pairs": 20},
        "tune": {"optimiser": {"updates": 12}},
    }
    assert checked(protocol.parent) == found


def test_registering_twice_changes_nothing(protocol: Path) -> None:
    first, _ = register(protocol)
    before = (protocol.parent / "registration.json").read_bytes()
    assert register(protocol) == (first, True)
    assert (protocol.parent / "registration.json").read_bytes() == before


def test_comments_and_layout_may_change(protocol: Path) -> None:
    found, _ = register(protocol)
    protocol.write_text("# said later\nseeds:\n- 0\n- 1\n" + TEXT.replace("seeds: [0, 1]\n", ""))
    assert checked(protocol.parent) == found


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [("updates: 12", "updates: 13", "tune"), ("[0, 1]", "[0, 1, 2]", "seeds"), ("title: small\n", "", "title")],
)
def test_a_changed_decision_is_refused_by_name(protocol: Path, before: str, after: str, key: str) -> None:
    register(protocol)
    protocol.write_text(TEXT.replace(before, after))
    for attempt in (lambda: checked(protocol.parent), lambda: register(protocol)):
        with pytest.raises(
            SettingsError, match=rf"is not what was registered on .* \({key} changed\): put it back, or"
        ):
            attempt()


def test_a_default_that_a_later_version_changes_does_not_change_the_study(protocol: Path) -> None:
    """What runs is what was registered, so a registration by another default is obeyed."""
    import thalweg.evaluation.registration as module

    register(protocol)
    path = protocol.parent / "registration.json"
    record = json.loads(path.read_text())
    record["protocol"]["tune"]["optimiser"]["learning_rate"] = 0.5
    record["hash"] = module._hash(record["content"], record["protocol"])
    path.write_text(json.dumps(record))
    assert checked(protocol.parent).protocol.tune.optimiser.learning_rate == 0.5


def test_an_edited_registration_is_refused(protocol: Path) -> None:
    register(protocol)
    path = protocol.parent / "registration.json"
    path.write_text(path.read_text().replace('"updates": 12', '"updates": 13'))
    with pytest.raises(RunFolderError, match="was edited after it was registered"):
        read_registration(protocol.parent)


def test_what_was_not_registered_is_refused(protocol: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="freeze the protocol first, with thalweg study register"):
        checked(protocol.parent)
    other = tmp_path / "plan.yaml"
    other.write_text(TEXT)
    with pytest.raises(SettingsError, match=r"a protocol is called protocol.yaml"):
        register(other)
