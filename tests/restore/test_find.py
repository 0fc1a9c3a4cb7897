"""Arguments to jobs: files, folders, globs, loops of links, results among inputs, collisions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bfsr_edge.errors import UsageError
from bfsr_edge.restore.find import Found, find


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.tif", ".cache/e.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("photos")


def pairs(found: Found) -> list[tuple[str, str]]:
    return [(job.source.as_posix(), job.target.as_posix()) for job in found.jobs]


def test_folders_are_mirrored_in_order(photos: Path) -> None:
    found = find(["photos"], Path("out"))
    assert pairs(found) == [
        ("photos/a.png", "out/a.png"),
        ("photos/b.JPG", "out/b.JPG"),
        ("photos/sub/c.webp", "out/sub/c.webp"),
        ("photos/sub/deep/d.tif", "out/sub/deep/d.tif"),
    ]
    assert found.passed_over == 2  # the text and the hidden file; hidden folders are not entered


def test_files_and_globs(photos: Path) -> None:
    assert pairs(find(["photos/sub/c.webp"], Path("out"))) == [("photos/sub/c.webp", "out/c.webp")]
    assert pairs(find(["photos/*.png"], Path("out"))) == [("photos/a.png", "out/a.png")]
    deep = pairs(find(["photos/**/*.tif"], Path("out")))
    assert deep == [("photos/sub/deep/d.tif", "out/sub/deep/d.tif")]


def test_a_name_with_brackets_is_a_name(photos: Path) -> None:
    (photos / "a[1].png").touch()
    assert pairs(find(["photos/a[1].png"], Path("out"))) == [("photos/a[1].png", "out/a[1].png")]


def test_format_and_suffix_name_the_result(photos: Path) -> None:
    found = find(["photos/b.JPG", "photos/a.png"], Path("out"), format="jpeg", suffix="_x")
    assert [target for _, target in pairs(found)] == ["out/b_x.JPG", "out/a_x.jpg"]


def test_the_same_file_twice_is_one_job(photos: Path) -> None:
    assert len(find(["photos/a.png", "photos/a.png", "photos"], Path("out")).jobs) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_loops_of_links_end(photos: Path) -> None:
    (photos / "sub" / "loop").symlink_to("..", target_is_directory=True)
    (photos / "sub" / "self").symlink_to("self")
    assert len(find(["photos"], Path("out")).jobs) == 4


def test_results_inside_the_input_are_not_input(photos: Path) -> None:
    (photos / "results").mkdir()
    (photos / "results" / "a.png").touch()
    assert len(find(["photos"], Path("photos/results")).jobs) == 4


def test_results_beside_their_inputs_are_not_input(photos: Path) -> None:
    (photos / "a_x.png").touch()  # by name
    (photos / "z.png").touch()  # by its record, as from a run with another suffix
    found = find(["photos"], photos, suffix="_x", is_result=lambda path: path.name == "z.png")
    assert [source for source, _ in pairs(found)] == [
        "photos/a.png", "photos/b.JPG", "photos/sub/c.webp", "photos/sub/deep/d.tif",
    ]  # fmt: skip


def test_results_anywhere_in_the_input_are_not_input(photos: Path) -> None:
    (photos / "x4").mkdir()
    (photos / "x4" / "z.png").touch()
    found = find(["photos"], photos / "x1", is_result=lambda path: path.name == "z.png")
    assert len(found.jobs) == 4
    assert found.passed_over == 3
    with pytest.raises(UsageError, match="no picture found") as caught:
        find(["photos/x4"], Path("out"), is_result=lambda path: path.name == "z.png")
    assert "1 results of earlier runs" in " ".join(caught.value.why)
    assert len(find(["photos/x4/z.png"], Path("out"), is_result=lambda path: True).jobs) == 1  # it was named


def test_two_inputs_for_one_result_are_refused_by_name(photos: Path) -> None:
    (photos / "a.jpg").touch()
    with pytest.raises(UsageError, match=r"a\.jpg and .*a\.png would both become"):
        find(["photos"], Path("out"), format="png")


def test_a_result_in_place_of_its_input_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="would replace it"):
        find(["photos"], photos)


def test_what_is_not_there_is_refused(photos: Path) -> None:
    for argument in ("photo", "photos/x.png", "photos/*.bmp"):
        with pytest.raises(UsageError):
            find([argument], Path("out"))
    (photos / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture found"):
        find(["photos/empty"], Path("out"))
    with pytest.raises(UsageError, match="separator"):
        find(["photos"], Path("out"), suffix="../x")


def test_a_named_file_without_a_picture_extension_is_accounted_for(photos: Path) -> None:
    found = find(["photos/a.png", "photos/notes.txt"], Path("out"))
    assert len(found.jobs) == 1
    assert found.unreadable[0][0] == Path("photos/notes.txt")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_read_is_accounted_for(photos: Path) -> None:
    (photos / "sub").chmod(0)
    found = find(["photos"], Path("out"))
    assert [path.name for path, _ in found.unreadable] == ["sub"]


def test_a_glob_does_not_go_round_in_loops_of_links(photos: Path) -> None:
    (photos / "sub" / "up").symlink_to("..", target_is_directory=True)
    assert pairs(find(["photos/**/*.tif"], Path("out"))) == [("photos/sub/deep/d.tif", "out/sub/deep/d.tif")]
    assert len(find(["photos/**"], Path("out")).jobs) == 4


def test_folders_that_a_deep_glob_finds_are_read(photos: Path) -> None:
    expected = [("photos/sub/deep/d.tif", "out/sub/deep/d.tif")]
    assert pairs(find(["photos/**/deep"], Path("out"))) == expected
    assert pairs(find(["photos/**/de*"], Path("out"))) == expected
    assert len(find(["photos/**/*"], Path("out")).jobs) == 4


@pytest.mark.parametrize("pattern", ["photos/*", "photos/**", "photos/**/*.png"])
def test_results_inside_the_input_are_no_matches_of_a_glob(photos: Path, pattern: str) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a.png").touch()
    found = find([pattern], Path("photos/out"), suffix="_x")
    assert all("out" not in source for source, _ in pairs(found))
    assert ("photos/a.png", "photos/out/a_x.png") in pairs(found)


def test_the_result_folder_among_what_a_shell_names(photos: Path) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a.png").touch()
    found = find(["photos/a.png", "photos/out", "photos/sub"], Path("photos/out"))
    assert [source for source, _ in pairs(found)] == ["photos/a.png", "photos/sub/c.webp", "photos/sub/deep/d.tif"]
    assert found.notes == ("photos/out is the folder for the results, so it is not read",)
    # alone it is what is meant
    assert pairs(find(["photos/out"], Path("photos/out"), suffix="_x")) == [("photos/out/a.png", "photos/out/a_x.png")]


def test_results_beside_their_inputs_by_a_glob(photos: Path) -> None:
    assert pairs(find(["photos/*.png"], photos, suffix="_x")) == [("photos/a.png", "photos/a_x.png")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_are_passed_over_and_told_where_they_are_named(photos: Path) -> None:
    os.mkfifo(photos / "p.png")
    assert len(find(["photos"], Path("out")).jobs) == 4
    assert len(find(["photos/*.png"], Path("out")).jobs) == 1
    assert find(["photos/p.png"], Path("out")).unreadable == [(photos / "p.png", "it is a pipe, a socket or a device")]
