"""Targets: what is said of each limit, and limits of one's own from a file."""

from dataclasses import replace
from pathlib import Path

import pytest

from compile.target import LOIHI2, TARGETS, load, named
from lavasnn.errors import ConfigError, InputError


@pytest.mark.parametrize("name", TARGETS)
def test_every_limit_has_unit_source_and_confidence(name: str) -> None:
    target = named(name)
    assert target.name == name
    for key, limit in target.limits.items():
        assert limit.source, key
        assert limit.unit or key.startswith("weight_exponent"), key
        assert limit.confidence in ("primary", "secondary", "derived", "simulator", "assumed")
    assert target.cores.value <= target.mesh_width.value * target.mesh_height.value
    assert target.chips.value % target.board_width.value == 0


def test_boards_differ_in_their_chips_alone() -> None:
    assert {t.name: t.chips.value for t in TARGETS.values()} == {
        "loihi2": 1,
        "oheo-gulch": 1,
        "kapoho-point": 8,
        "hala-point": 1152,
    }
    for target in TARGETS.values():
        same = replace(target, name="loihi2", chips=LOIHI2.chips, board_width=LOIHI2.board_width)
        assert same == LOIHI2


def test_what_nobody_published_is_assumed() -> None:
    for key in ("mesh_width", "mesh_height", "chip_crossing"):
        assert LOIHI2.limits[key].confidence == "assumed"
        assert "not published" in LOIHI2.limits[key].source


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_replaces_limits_of_its_base(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        base = "kapoho-point"
        [limits.cores]
        value = 128
        source = "our board"
        confidence = "primary"
        [limits.mesh_height]
        value = 16
        unit = "rows of cores"
        source = "our board"
        [limits.weight_exponent_low]
        value = -4
        source = "our board"
        """,
    )
    target = named(str(path))
    assert target == load(path)
    assert (target.name, target.chips.value) == ("mine", 8)
    assert (target.cores.value, target.cores.unit, target.cores.confidence) == (128, "neurocores a chip", "primary")
    assert (target.mesh_height.unit, target.mesh_height.confidence) == ("rows of cores", "assumed")
    assert target.weight_exponent_low.value == -4
    kept = {key: limit for key, limit in target.limits.items() if key not in ("cores", "mesh_height", "weight_exponent_low")}
    assert all(limit == named("kapoho-point").limits[key] for key, limit in kept.items())
    assert load(written(tmp_path, 'name = "x"')) == replace(LOIHI2, name="x")


LIMIT = '\nvalue = 3\nsource = "x"\n'


@pytest.mark.parametrize(
    "text, words",
    [
        ("bases = 1", "unknown entry bases; allowed are base, name, limits"),
        ('base = "loihi3"', "base is 'loihi3', allowed are loihi2, oheo-gulch, kapoho-point, hala-point"),
        ("base = [1]", r"base is \[1\], allowed are loihi2"),
        ("name = 3", "name is 3, needed is a text"),
        ("limits = 3", "limits is 3, needed is a table"),
        ("[limits.core]" + LIMIT, "unknown entry limits.core; allowed are chips, cores, "),
        ("[limits]\ncores = 3", "limits.cores is 3, needed is a table with value and source"),
        ("[limits.cores]\nvalue = 3", "limits.cores.source is None, needed is a text that says where the number is from"),
        ('[limits.cores]\nsource = "x"', r"limits.cores.value is None, needed is a whole number 1\.\."),
        ("[limits.cores]" + LIMIT.replace("3", "0"), r"limits.cores.value is 0, needed is a whole number 1\.\."),
        ("[limits.cores]" + LIMIT.replace("3", "3.0"), r"limits.cores.value is 3.0, needed is a whole number"),
        ("[limits.cores]" + LIMIT.replace("3", "true"), r"limits.cores.value is True, needed is a whole number"),
        ("[limits.delay]" + LIMIT.replace("3", "-1"), r"limits.delay.value is -1, needed is a whole number 0\.\."),
        ("[limits.cores]\nunit = 1" + LIMIT, "limits.cores.unit is 1, needed is a text"),
        (
            "[limits.cores]\nvalues = 1" + LIMIT,
            "unknown entry limits.cores.values; allowed are value, unit, source, confidence",
        ),
        ('[limits.cores]\nconfidence = "sure"' + LIMIT, "limits.cores.confidence is 'sure', allowed are primary, secondary,"),
        ("x", "not TOML"),
    ],
)
def test_mistyped_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(written(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert "\n" not in str(caught.value)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown entry x; .*limits.cores.value is 0.*limits.delay.source is None"):
        load(written(tmp_path, 'x = 1\n[limits.cores]\nvalue = 0\nsource = "x"\n[limits.delay]\nvalue = 3'))


def test_more_cores_than_the_mesh_has_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target 'mine': 128 cores on a mesh of 8 x 15, which has 120 places; mesh_width and"):
        load(written(tmp_path, '[limits.cores]\nvalue = 128\nsource = "x"'))


def test_no_such_target() -> None:
    with pytest.raises(
        InputError, match=r"target 'loihi9' is unknown; known are loihi2, oheo-gulch, .*, or the name of a .toml"
    ):
        named("loihi9")
    with pytest.raises(InputError, match=r"cannot read nowhere\.toml: No such file"):
        named("nowhere.toml")
