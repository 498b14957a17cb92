"""A store gives back what was put in, bit for bit, and refuses whatever is not whole with one line."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.structures.store.ragged import frames, same, stored

from thalweg.errors import SettingsError, StructureError
from thalweg.structures.extended_xyz import read_frames
from thalweg.structures.pairs import Frames
from thalweg.structures.store import Store, convert, open_store, reading
from thalweg.structures.store.schema import read_index
from thalweg.structures.store.writing import StoreWriter

SIZES = [5, 1, 30, 2, 1, 7, 12, 3, 1]


@pytest.fixture(scope="module")
def some() -> Frames:
    return frames(SIZES, 1, stress=True, fixed=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, some: Frames) -> Store:
    return stored(tmp_path_factory.mktemp("whole"), some)


@pytest.fixture
def copy(tmp_path: Path, whole: Store) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole.path, tmp_path / "copy"))


def test_what_comes_out_is_what_the_extended_xyz_file_holds(whole: Store) -> None:
    assert same(whole.select(range(len(whole))), read_frames(whole.path.with_suffix(".extxyz")))
    assert read_index(whole.path).species == tuple(sorted(set(whole.arrays["numbers"].tolist())))
    assert whole.index.largest == 30


def test_frames_are_gathered_in_the_order_asked_for(whole: Store, some: Frames) -> None:
    for chosen in ([3], [8, 0, 0, 2], list(range(9)), []):
        assert same(whole.select(chosen), some.select(chosen))
    assert same(whole.select(torch.tensor([2, 1])), some.select([2, 1]))
    assert [f.ids[0] for f in whole] == list(some.ids)
    assert same(whole[4], some.select([4]))
    assert whole.counts([2, 2, 1]).tolist() == [30, 30, 1]


def shifted(tensors: dict[str, torch.Tensor]) -> None:
    for values in tensors.values():
        values.logical_not_() if values.dtype == torch.bool else values.add_(1)


def tensors(frames: Frames) -> dict[str, torch.Tensor]:
    every = {**vars(frames), **vars(frames.structures)}
    return {name: values for name, values in every.items() if isinstance(values, torch.Tensor)}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("chosen", [[2], [2, 5], [2, 2]])
def test_what_a_caller_writes_into_frames_does_not_reach_the_store(
    copy: Path, some: Frames, loaded: bool, chosen: list[int]
) -> None:
    store = open_store(copy, in_memory=loaded)
    mine, other = store.select(chosen), store.select(chosen)
    assert len(tensors(mine)) == 9
    shifted(tensors(mine))
    assert not same(mine, other)
    assert same(other, some.select(chosen))
    assert same(store.select(chosen), some.select(chosen))
    open_store(copy).verify()


@pytest.mark.parametrize("flags", [(False, False), (True, True)])
def test_a_single_read_gives_what_a_gather_gives(tmp_path: Path, flags: tuple[bool, bool]) -> None:
    written = frames(SIZES, 4, stress=flags[0], fixed=flags[1])
    writer = StoreWriter(tmp_path / "store", "float32", {})
    cell = written.structures.cell.index_fill(0, torch.tensor([3]), 1e300)  # more than float32 holds
    writer.append(replace(written, structures=written.structures.with_cell(cell)), {})
    writer.finish("made up")
    store = open_store(tmp_path / "store")
    gathered = store.select(range(len(store)))
    assert gathered.structures.cell[3].isinf().all()
    for k in range(len(store)):
        for one in (store[k], store.select([k])):
            assert same(one, gathered.select([k]))
            assert all(values.is_contiguous() and not values.requires_grad for values in tensors(one).values())


def test_two_unequal_sets_of_frames_are_told_apart(whole: Store, some: Frames) -> None:
    """The negative control of `same`."""
    one = whole.select([2])
    for other in (
        replace(one, energy=one.energy + 1e-9),
        replace(one, forces=one.forces.float()),
        replace(one, stress=None),
        replace(one, structures=replace(one.structures, free=~one.structures.free)),
        replace(one, parents=("else",)),
    ):
        assert not same(one, other)


@pytest.mark.parametrize("k", [-1, 9])
def test_a_frame_that_is_not_there_is_refused(whole: Store, k: int) -> None:
    with pytest.raises(StructureError, match=f"there is no frame {k}: allowed is 0 to 8"):
        whole.select([0, k])
    with pytest.raises(IndexError, match="allowed is 0 to 8"):
        whole[k]


def test_loaded_and_sent_to_another_process_it_is_the_same(whole: Store, some: Frames) -> None:
    for store in (whole, whole.loaded(), open_store(whole.path, in_memory="auto")):
        sent = pickle.loads(pickle.dumps(store))
        assert sent.in_memory == store.in_memory
        assert same(sent.select([1, 2]), some.select([1, 2]))
    assert len(pickle.dumps(whole.loaded())) < 1000


def test_auto_loads_only_what_fits(whole: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = whole.index.bytes
    memory = psutil.virtual_memory()
    for free, loaded in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(reading.psutil, "virtual_memory", lambda free=free: memory._replace(available=free))
        assert open_store(whole.path, in_memory="auto").in_memory is loaded
    monkeypatch.setattr(reading.psutil, "virtual_memory", lambda: memory._replace(available=size - 1))
    with pytest.raises(SettingsError, match="do not fit into"):
        open_store(whole.path, in_memory=True)
    with pytest.raises(SettingsError, match="memory_share is 0: allowed is above 0"):
        open_store(whole.path, in_memory="auto", memory_share=0)


def test_single_precision_rounds_once_and_keeps_energies_and_cells(tmp_path: Path, whole: Store, some: Frames) -> None:
    convert(whole.path.with_suffix(".extxyz"), tmp_path / "single")
    single = open_store(tmp_path / "single").select(range(9))
    assert torch.equal(single.structures.positions, some.structures.positions.float())
    assert torch.equal(single.forces, some.forces.float())
    assert torch.equal(single.energy, some.energy)
    assert single.structures.cell.dtype == torch.float32


def test_masks_and_stresses_take_no_room_where_there_are_none(tmp_path: Path) -> None:
    plain = frames(SIZES, 2)
    store = stored(tmp_path, plain)
    assert not {"free", "stress"} & {file.stem for file in store.path.iterdir()}
    assert same(store.select(range(9)), plain)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    cut=st.integers(0, 12),
    flags=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_any_ragged_frames_come_back(
    sizes: list[int], cut: int, flags: tuple[bool, bool], seed: int, data: st.DataObject
) -> None:
    every = frames(sizes, seed, stress=flags[0], fixed=flags[1])
    order = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=20))
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(Path(folder) / "store", "float64", {})
        for part in (range(cut), range(cut, len(sizes))):
            inside = [k for k in part if k < len(sizes)]
            if inside:
                writer.append(every.select(inside), {})
        writer.finish("made up")
        store = open_store(Path(folder) / "store")
        store.verify()
        assert same(store.select(order), every.select(order))


# what is not whole


def spoil(name: str, change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        change(data)
        (folder / name).write_bytes(data)

    return act


def edit(key: str, value: object) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        index[key] = value
        (folder / "index.json").write_text(json.dumps(index))

    return act


def unfinished(folder: Path) -> None:
    (folder / "index.json").rename(folder / "journal.jsonl")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: shutil.rmtree(folder), "copy: there is no such store"),
        (lambda folder: (folder / "index.json").unlink(), r"no index\.json, so this is no store"),
        (unfinished, "this conversion was not finished: run thalweg data convert"),
        (spoil("index.json", lambda d: d.clear()), r"index\.json: not JSON"),
        (spoil("index.json", lambda d: d.__delitem__(slice(-9, None))), r"index\.json: not JSON"),
        (spoil("index.json", lambda d: d.__setitem__(slice(0, 1), b"\xff")), r"index\.json: not JSON"),
        (edit("schema", "another"), r"index\.json: its schema is 'another', allowed is 'thalweg frame store'"),
        (edit("version", 7), r"index\.json: version 7 of the schema, known is 1"),
        (edit("frames", 8), r"index\.json: its checksum does not fit"),
        (lambda folder: (folder / "forces.bin").unlink(), r"forces\.bin: the file is missing"),
        (spoil("forces.bin", lambda d: d.pop()), r"forces\.bin: 1487 bytes where the index says 1488: truncated"),
        (spoil("numbers.bin", lambda d: d.append(1)), r"numbers\.bin: 63 bytes where the index says 62"),
        (spoil("offsets.bin", lambda d: d.__setitem__(0, 1)), r"offsets\.bin: offsets do not run from 0 to 62"),
    ],
)
def test_a_store_that_is_not_whole_is_not_opened(copy: Path, damage: Callable[[Path], None], line: str) -> None:
    open_store(copy)
    damage(copy)
    with pytest.raises(StructureError, match=line) as told:
        open_store(copy)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("file", ["positions", "numbers", "free", "energy", "ids", "parents", "stress", "pbc"])
def test_one_flipped_bit_is_found_when_loading_and_when_verifying(copy: Path, file: str) -> None:
    open_store(copy).verify()
    spoil(f"{file}.bin", lambda d: d.__setitem__(len(d) // 2, d[len(d) // 2] ^ 4))(copy)
    mapped = open_store(copy)
    for check in (mapped.verify, mapped.loaded, lambda: open_store(copy, in_memory="auto")):
        with pytest.raises(StructureError, match=rf"{file}\.bin: checksum .* the file is damaged"):
            check()


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("file", ["offsets", "parents", "id_offsets", "parent_offsets", "free", "pbc"])
def test_damaged_places_are_one_line_and_no_crash(copy: Path, file: str, one: bool) -> None:
    values = np.fromfile(copy / f"{file}.bin", dtype={"parents": "<u4", "free": "|u1", "pbc": "|u1"}.get(file, "<i8"))
    values[1] = 8 if file in ("free", "pbc") else 10**6
    values.tofile(copy / f"{file}.bin")
    with pytest.raises(StructureError, match=rf"{file}\.bin.*damaged; convert again"):
        [open_store(copy).select([k] if one else range(9)) for k in (0, 1)]


@pytest.mark.parametrize("chosen", [[4], [4, 3]])
@pytest.mark.parametrize(("first", "last"), [(-5, 3), (30, 20), (50, 63), (-8, -2)])
def test_offsets_that_do_not_ascend_inside_the_store_are_damage(
    copy: Path, chosen: list[int], first: int, last: int
) -> None:
    values = np.fromfile(copy / "offsets.bin", dtype="<i8")
    values[4:6] = first, last
    values.tofile(copy / "offsets.bin")
    with pytest.raises(StructureError, match=r"offsets\.bin: offsets that do not ascend: damaged"):
        open_store(copy).select(chosen)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StructureError, match="this is a file, not the folder of a store"):
        open_store(tmp_path / "file")


def taken(act: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that a call allocates at most and the bytes of files that come into memory with it."""
    before = psutil.Process().memory_info().shared
    tracemalloc.start()
    kept = act()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    mapped = psutil.Process().memory_info().shared - before
    del kept
    return peak, mapped


def test_opening_takes_memory_that_does_not_depend_on_the_length(tmp_path: Path) -> None:
    opened = []
    for count in (1_000, 20_000):
        writer = StoreWriter(tmp_path / f"{count}", "float64", {})
        part = frames([20] * 1_000, 3)
        for k in range(count // 1_000):
            names = tuple(f"{k} {name}" for name in part.ids)
            writer.append(replace(part, structures=replace(part.structures, ids=names)), {})
        size = writer.finish("made up").bytes
        opened.append(taken(lambda count=count: open_store(tmp_path / f"{count}")))
        store = open_store(tmp_path / f"{count}")
        assert taken(store.loaded)[0] > 0.9 * size  # the first measure sees arrays that are read,
        assert (
            taken(lambda store=store: [float(a.sum(dtype=float)) for a in store.arrays.values()])[1] > 0.5 * size
        )  # this, pages
    assert opened[1][0] < opened[0][0] + 2**16
    assert opened[1][1] < opened[0][1] + 2**20
    assert size > 20 * 2**20
