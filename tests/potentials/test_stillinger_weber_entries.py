from pathlib import Path

import pytest

from thalweg.errors import PotentialError
from thalweg.potentials.stillinger_weber import StillingerWeber
from thalweg.potentials.stillinger_weber_entries import Entry, EntrySet, published_entries, read_entries

SILICON = "Si Si Si 2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0"


def written(folder: Path, text: str) -> Path:
    path = folder / "given.sw"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_entry_may_span_lines_and_carry_comments(tmp_path: Path) -> None:
    words = SILICON.split()
    text = "# heading\n" + " ".join(words[:5]) + " # length\n" + " ".join(words[5:]) + "\n"
    assert read_entries(written(tmp_path, text)).by_triplet == published_entries("Si").by_triplet


def test_elements_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, SILICON + "\n" + SILICON.replace("Si Si Si", "Si Si Ge"))
    assert StillingerWeber.from_file(path, ["Si"]).species == (14,)
    with pytest.raises(PotentialError, match="is missing: every ordered triplet of Si, Ge"):
        read_entries(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no Stillinger–Weber entries"),
        (SILICON + " 3", "15 words, not a multiple of 14"),
        (SILICON.replace("21.0", "x"), "could not convert string to float: 'x'"),
        (SILICON.replace("21.0", "-21.0"), "lambda_ is -21.0; allowed is a finite number, not negative"),
        (SILICON.replace("21.0", "nan"), "lambda_ is nan"),
        (SILICON.replace("-0.333333333333", "-1.5"), "cos_theta0 is -1.5; allowed is a number from -1 to 1"),
        (SILICON.replace("Si Si Si", "Si Si Sx"), "'Sx' is not an element"),
        (SILICON + "\n" + SILICON, "Si-Si-Si is given twice"),
        (SILICON.replace("1.20", "0.0"), "gamma is 0"),
        (SILICON.replace("1.80", "0.0"), "nothing interacts"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PotentialError, match=message):
        StillingerWeber.from_file(written(tmp_path, text))


def test_a_missing_file_and_a_missing_element_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PotentialError, match="cannot read"):
        read_entries(tmp_path / "none.sw")
    with pytest.raises(PotentialError, match="no entries for Ge"):
        read_entries(written(tmp_path, SILICON), ["Si", "Ge"])


@pytest.mark.parametrize(
    ("triplet", "key", "name"),
    [
        (("Te", "Cd", "Cd"), "B", "B"),
        (("Cd", "Te", "Cd"), "lambda_", "lambda"),
        (("Te", "Cd", "Te"), "cos_theta0", "cos"),
    ],
)
def test_mirrored_entries_must_agree(triplet: tuple[str, str, str], key: str, name: str) -> None:
    entries = published_entries("CdTe-2013").by_triplet
    plain = {t: e.plain() for t, e in entries.items()}
    EntrySet.of([Entry.from_plain(e) for e in plain.values()])
    plain[triplet][key] *= 1.001
    with pytest.raises(PotentialError, match=rf"give {name}.*must agree"):
        EntrySet.of([Entry.from_plain(e) for e in plain.values()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigm": 1.0}, "did you mean 'sigma'"),
        ({"sigma": "2"}, "sigma of a Stillinger–Weber entry is '2'"),
        ({"elements": ["Si"]}, "give three symbols"),
    ],
)
def test_a_plain_entry_is_checked(change: dict[str, object], message: str) -> None:
    plain = published_entries("Si").by_triplet["Si", "Si", "Si"].plain()
    assert Entry.from_plain(plain).plain() == plain
    with pytest.raises(PotentialError, match=message):
        Entry.from_plain(plain | change)
    with pytest.raises(PotentialError, match="lacks p"):
        Entry.from_plain({k: v for k, v in plain.items() if k != "p"})
