"""Our file container: what goes in comes out, what is damaged is refused, what fails leaves nothing behind."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from compile.program import Program, Slice
from lavasnn.dynamics.diffpc import DiffPC, DiffPCInt, Timing
from lavasnn.dynamics.lif import Lif, LifInt
from lavasnn.encode import Encoding
from lavasnn.errors import FileFormatError, InputError
from lavasnn.files import SCHEMA, pack, read_tensors, replacing, unpack, write_tensors, write_text
from lavasnn.ir import Graph, Phase, Population, Projection, Source
from lavasnn.results import RunResult
from lavasnn.synapses import Dense, Grid, Transposed


def same(one: Any, other: Any) -> bool:
    """Equal in type, shape, dtype and every value; lists count as tuples, NaN as equal to itself."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
        return both and one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return isinstance(other, tuple | list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


def lif_graph() -> Graph:
    rng = np.random.default_rng(1)
    populations = (
        Population("in", 4, Source()),
        Population("a", 3, Lif(0.5, 0.25, 1.5, rng.normal(size=3))),
        Population("b", 2, Lif(1.0, 0.0, 2.0)),
    )
    projections = (
        Projection("w1", "in", "a", Dense(rng.normal(size=(3, 4)))),
        Projection("w2", "a", "b", Dense(np.asfortranarray(rng.normal(size=(2, 3)).astype(np.float32)))),
    )
    return Graph(populations, projections, Encoding("bernoulli", 0, 16, 2**63 - 1), "b", 7)


def integer_lif_graph() -> Graph:
    populations = (
        Population("in", 2, Source()),
        Population("a", 3, LifInt(-1, 4095, 131071, np.array([-4096, 0, 4095]), 7)),
    )
    synapses = Dense(np.array([[-256, 254], [0, 2], [4, 6]], np.int16), Grid(-2, "mixed", 1 / 3))
    return Graph(populations, (Projection("w", "in", "a", synapses),), Encoding("bernoulli"), "a", 3)


def diffpc_graph(integer: bool) -> Graph:
    timing = Timing(m=2, n=3, m_error=-1, init_cycles=2, schedule="cyclic-decay", final=0.5, gamma=0.25)
    bias = np.array([1.5, -2.0])
    inner = DiffPCInt("hidden", 1, timing, bias.astype(np.int64), 8) if integer else DiffPC("hidden", 1, timing, bias)
    outer = DiffPCInt("output", 2, timing, 3, 8) if integer else DiffPC("output", 2, timing, 0.5)
    first = DiffPCInt("input", 0, timing, 0, 8) if integer else DiffPC("input", 0, timing)
    weight = np.array([[1.0, -2.0]])

    def synapses(value: Any) -> Any:
        return Dense(value.astype(np.int16), Grid(1)) if integer else Dense(value)

    projections = (
        Projection("w1", "in", "h", synapses(weight.T * 2), "s_A", "a_x"),
        Projection("w2", "h", "out", synapses(weight), "s_A", "a_x"),
        Projection("w2t", "out", "h", Transposed("w2", 3), "s_e", "a_e"),
    )
    populations = (Population("in", 1, first), Population("h", 2, inner), Population("out", 1, outer))
    return Graph(populations, projections, Encoding("value", -3, 16), "out")


def program() -> Program:
    slices = (Slice(0, "in", 0, 2, 0, 10), Slice(1, "a", 0, 2, 4, 20), Slice(2, "a", 2, 3, 2, 30))
    report = {"quantize": {"unit": 0.1, "saturated": 0, "ok": True, "none": None}, "warnings": ['a "b" ü\n'], "seconds": {}}
    return Program(integer_lif_graph(), "loihi2", slices, {"in": 0, "a": 1}, report, "x.safetensors")


def run_result() -> RunResult:
    rng = np.random.default_rng(2)
    return RunResult(
        backend="exact",
        precision="fixed",
        phases=(Phase("init", 0, 4), Phase("drain", 4, 5)),
        sizes={"in": 3, "out": 2},
        outputs=rng.integers(-9, 9, (6, 2)),
        labels=np.zeros(0, np.int64),
        messages={"in.s_A": rng.integers(0, 3, (6, 5)).astype(np.int32), "out.s_A": np.zeros((6, 5), np.int32)},
        unheard=("out.s_A",),
        traces={"in.s_A": rng.integers(-1, 2, (6, 5, 3)).astype(np.int8), "out.margin": np.full((6, 5, 1), np.inf)},
        meta={"peaks": {"in.x_F": 1.25}, "seed": 3},
    )


EXAMPLES: dict[str, Callable[[], Any]] = {
    "lif": lif_graph,
    "integer lif": integer_lif_graph,
    "diffpc": lambda: diffpc_graph(False),
    "integer diffpc": lambda: diffpc_graph(True),
    "program": program,
    "run": run_result,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.safetensors"
    integer_lif_graph().save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---- Round trips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_round_trip(example: str, tmp_path: Path) -> None:
    before, path = EXAMPLES[example](), tmp_path / "deep" / "er" / "x.safetensors"
    before.save(path)
    after = type(before).load(path)
    assert same(before, after)
    assert names(path.parent) == ["x.safetensors"]
    first = path.read_bytes()
    after.save(path)
    assert path.read_bytes() == first


def test_same_tells_differences() -> None:
    one = program()
    assert same(one, program())
    assert not same(one, replace(one, source="y"))
    assert not same(one, replace(one, offsets={"in": 0, "a": 2}))
    assert not same(one, replace(one, slices=one.slices[:-1]))
    changed = replace(integer_lif_graph().projections[0], synapses=Dense(np.zeros((3, 2), np.int16), Grid(-2, "mixed", 1 / 3)))
    assert not same(one, replace(one, graph=replace(one.graph, projections=(changed,))))


DTYPES = [np.bool_, *(np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)), np.float16, np.float32, np.float64]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | ARRAYS
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_characters="/$", codec="utf-8"), min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=TREES)
def test_any_tree_of_values_survives(value: Any) -> None:
    tensors: dict[str, Any] = {}
    header = {"value": pack(value, tensors, "value")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        write_tensors(path, "run", header, tensors)
        kind, read, arrays_read = read_tensors(path)
    assert kind == "run"
    assert same(value, unpack(read, arrays_read, {})["value"])


@pytest.mark.parametrize(
    "value",
    [np.array(5), np.array(2.5), np.zeros((0, 3)), np.arange(6).reshape(2, 3).T, np.arange(9)[::2], np.ones(1, np.float16)],
    ids=["integer", "scalar", "empty", "transposed", "strided", "half"],
)
def test_arrays_keep_shape_and_dtype(value: Any, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", "run", {}, {"a": value})
    found = read_tensors(tmp_path / "x", "run")[2]["a"]
    assert (found.shape, found.dtype) == (value.shape, value.dtype)
    assert found.tolist() == value.tolist()


def test_foreign_byte_order_is_turned(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", "run", {}, {"a": np.array([1, 258], ">i4")})
    assert read_tensors(tmp_path / "x", "run")[2]["a"].tolist() == [1, 258]


def test_numpy_scalars_become_plain_numbers() -> None:
    packed = pack({"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)}, {})
    assert packed == {"a": 3, "b": 0.5, "c": True}
    assert [type(v) for v in packed.values()] == [int, float, bool]


def test_a_file_is_plain_safetensors_without_pickle(saved: Path) -> None:
    assert load_file(saved)["projections/0/synapses/weight"].tolist() == [[-256, 254], [0, 2], [4, 6]]
    with safe_open(saved, framework="np") as file:
        meta = json.loads(file.metadata()["lavasnn"])
    assert (meta["kind"], meta["schema"]) == ("graph", SCHEMA)


# ---- Files that are refused -----------------------------------------------------------------------------------------------


def refused(path: Path, message: str, load: Callable[[Path], Any] = Graph.load) -> None:
    with pytest.raises(FileFormatError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_truncated(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(12), *range(12, len(whole), 5), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        refused(saved, "no readable safetensors file")
    saved.write_bytes(whole + b"\0")
    refused(saved, "no readable safetensors file")


def test_no_flipped_byte_goes_unnoticed(saved: Path) -> None:
    whole, before = saved.read_bytes(), Graph.load(saved)
    dice = np.random.default_rng(3)
    caught = 0
    for i in range(len(whole)):
        flip = (0xFF, 1 << int(dice.integers(8)), int(dice.integers(1, 256)))[i % 3]
        damaged = bytearray(whole)
        damaged[i] ^= flip
        saved.write_bytes(damaged)
        try:
            after = Graph.load(saved)
        except FileFormatError as error:
            assert "\n" not in str(error)
            caught += 1
        else:  # a blank between header entries, or an older schema number: the content is what it was
            assert same(before, after), f"byte {i} ^ {flip}"
    assert caught > 0.95 * len(whole)


def test_every_bit_of_the_arrays_counts(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_tensors(path, "run", {}, {"a": np.arange(8, dtype=np.int16)})
    whole = path.read_bytes()
    for bit in range(8 * 16):
        damaged = bytearray(whole)
        damaged[len(whole) - 16 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        refused(path, "damaged, its content does not match its checksum", read_tensors)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change our part of the header, keep all else."""
    with safe_open(path, framework="np") as file:
        meta = json.loads(file.metadata()["lavasnn"])
    change(meta)
    path.write_bytes(save(load_file(path), metadata={"lavasnn": json.dumps(meta)}))


def test_newer_schema(saved: Path) -> None:
    rewritten(saved, lambda meta: meta.update(schema=SCHEMA + 1))
    refused(saved, rf"schema {SCHEMA + 1}, this lavasnn reads up to {SCHEMA}; upgrade lavasnn")


def test_header_that_was_edited(saved: Path) -> None:
    rewritten(saved, lambda meta: meta["header"].update(steps=4))
    refused(saved, "damaged")


def test_other_kind(saved: Path, tmp_path: Path) -> None:
    refused(saved, "holds a graph, needed is a program", Program.load)
    refused(saved, "holds a graph, needed is a run", RunResult.load)
    refused(saved, "holds a graph, needed is a model or checkpoint", lambda p: read_tensors(p, "model", "checkpoint"))
    run_result().save(tmp_path / "run")
    refused(tmp_path / "run", "holds a run, needed is a graph")


def test_kind_that_holds_something_else(tmp_path: Path) -> None:
    for kind, load in (("graph", Graph.load), ("program", Program.load), ("run", RunResult.load)):
        write_tensors(tmp_path / "x", kind, {"a": 1}, {})
        refused(tmp_path / "x", f"holds no {kind}", load)


def test_other_safetensors_file(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "x")
    refused(tmp_path / "x", "a safetensors file, but not one that lavasnn wrote")
    save_file({"a": np.zeros(3)}, tmp_path / "x", metadata={"format": "pt", "lavasnn": "[1]"})
    refused(tmp_path / "x", "not one that lavasnn wrote")


@pytest.mark.parametrize("contents", [b"", b"hello", b"\x80\x04.", bytes(100), b"\xff" * 100])
def test_no_safetensors_file(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(contents)
    refused(tmp_path / "x", "no readable safetensors file")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=f"no file {path}$") as caught:
            Graph.load(path)
        assert not isinstance(caught.value, FileFormatError)


def crafted(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A file whose checksum is right and whose header is not."""
    tensors: dict[str, Any] = {}
    header = pack(integer_lif_graph(), tensors)
    change(header, tensors)
    write_tensors(tmp_path / "x", "graph", header, tensors)
    return tmp_path / "x"


CRAFTED: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "unknown type": (lambda h, t: h["encoding"].update({"$type": "Path"}), "unknown type 'Path'"),
    "unknown entry": (lambda h, t: h.update(colour=1), "Graph: .*unexpected keyword argument 'colour'"),
    "missing entry": (lambda h, t: h.pop("output"), "Graph: .*missing 1 required positional argument: 'output'"),
    "missing array": (
        lambda h, t: t.pop("projections/0/synapses/weight"),
        "array 'projections/0/synapses/weight' is missing",
    ),
    "value out of range": (lambda h, t: h["encoding"].update(levels=0), "Encoding: encoding: levels is 0"),
    "wrong class": (lambda h, t: h.update(populations=["a"]), "Graph: 'str' object has no attribute 'name'"),
    "weights of another shape": (
        lambda h, t: t.update({"projections/0/synapses/weight": np.zeros((2, 2))}),
        r"Graph: graph: projection 'w' has weights of shape \(2, 2\), needed is \(3, 2\)",
    ),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_headers_that_make_no_graph(case: str, tmp_path: Path) -> None:
    change, message = CRAFTED[case]
    refused(crafted(tmp_path, lambda h, t: (change(h, t), None)[1]), message)


@dataclass(frozen=True)
class Stranger:
    a: int = 1


def test_unpack_makes_only_the_classes_it_is_given() -> None:
    packed = pack(Stranger(2), {})
    assert unpack(packed, {}, {"Stranger": Stranger}) == Stranger(2)
    with pytest.raises(FileFormatError, match=r"^here: unknown type 'Stranger'$"):
        unpack(packed, {}, {}, "here")


# ---- Writing that fails ---------------------------------------------------------------------------------------------------


def test_a_folder_as_output(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*folder: it is a folder, a file name is needed"):
        integer_lif_graph().save(tmp_path / "folder")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == []


def test_a_file_where_a_folder_is_needed(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match=r"cannot write .*x: \w+") as caught:
        integer_lif_graph().save(saved / "x")
    assert "\n" not in str(caught.value)
    assert saved.read_bytes() == before and names(saved.parent) == [saved.name]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
        integer_lif_graph().save(tmp_path / ("x" * 300))
    assert names(tmp_path) == []


def test_unwritable_folder_as_the_system_reports_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    with pytest.raises(InputError, match=r"cannot write .*graph\.safetensors: Permission denied$"):
        diffpc_graph(False).save(saved)
    assert saved.read_bytes() == before and names(saved.parent) == [saved.name]


@pytest.mark.parametrize("method", ["write_bytes", "replace", "chmod"])
def test_a_failed_write_keeps_the_old_file(method: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(path: Path, *_: object) -> None:
        if method == "write_bytes":
            with path.open("wb") as file:
                file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(InputError, match=r"cannot write .*graph\.safetensors: No space left on device$"):
        diffpc_graph(False).save(saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert names(saved.parent) == [saved.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, InputError])
def test_an_interrupted_write_keeps_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupted()
    assert path.read_text() == "old" and names(tmp_path) == ["x.txt"]


def test_replacing_gives_a_name_beside_the_file_with_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".png" and temporary != path
        temporary.write_bytes(b"1")
    assert path.read_bytes() == b"1" and names(tmp_path) == ["x.png"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "a")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "θ ≥ 2\n")
    assert (tmp_path / "x").read_bytes() == "θ ≥ 2\n".encode()
