"""A little of ``make fuzz`` in every run of the tests, what campaigns found, and that a campaign can find anything."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from bfsr_edge import faceset, image_metadata
from bfsr_edge.errors import BfsrError, ModelError, TrainingError, UsageError
from bfsr_edge.weights.graphs import read_onnx
from tests.fuzz import campaign, mutations, networks, properties, real

SEED = 20_000
COUNT = 80


def test_a_few_inputs_of_every_kind() -> None:
    inputs = campaign.corpus(SEED, COUNT)
    assert len(inputs) >= COUNT - len(campaign.SHARES)
    failures = campaign.run(inputs)
    again = f"python -m tools.fuzz --seed {SEED} --count {COUNT}"
    assert not failures, "\n".join([again, *(f"{failure.inputs[0].name}: {failure.what}" for failure in failures)])


def test_the_same_seed_gives_the_same_inputs() -> None:
    """In processes of their own, as that of ``make fuzz``: hypothesis draws constants of loaded modules too."""
    code = """if True:
        from tests.fuzz.campaign import corpus, corpus_hash
        inputs = corpus({}, 60)
        print(corpus_hash(inputs), len({{entry.name for entry in inputs}}), len(inputs))"""
    runs = []
    for seed in (1, 1, 2):
        command = [sys.executable, "-W", "ignore", "-c", code.format(seed)]
        done = subprocess.run(command, cwd=campaign.ROOT, capture_output=True, text=True, check=True)
        runs.append(done.stdout.split())
    one, again, other = runs
    assert one == again
    assert one[0] != other[0]
    assert one[1] == one[2]


@pytest.mark.parametrize("name", sorted(real.pictures()))
def test_the_mutations_of_a_format_leave_what_they_do_not_touch(name: str) -> None:
    """Taking a file apart and putting it together again gives it back: else every input would be damaged alike."""
    content = real.pictures()[name]
    if content.startswith(b"\x89PNG"):
        assert mutations.png_from(mutations.png_chunks(content)) == content
    elif content.startswith(b"\xff\xd8") and not name.endswith(".mpo.jpg"):
        assert mutations.jpeg_from(*mutations.jpeg_segments(content)) == content
    changed = [mutations.mutate(content, name.rpartition(".")[2], (), random.Random(seed)) for seed in range(20)]
    assert sum(other != content for other in changed) > 10


# ---- a campaign finds what is there to be found


def test_a_campaign_names_a_process_that_crashes_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that ends its process, or never answers, is blamed on the one input that it was given."""
    package = tmp_path / "tests" / "fuzz"
    package.mkdir(parents=True)
    (package / "worker.py").write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    names = json.loads(line)['names']\n"
        "    if 'crash.exif' in names: os.abort()\n"
        "    if 'hang.exif' in names: time.sleep(60)\n"
        "    print(json.dumps({'findings': [], 'peak': 0}), flush=True)\n"
    )
    monkeypatch.setattr(campaign, "ROOT", tmp_path)
    monkeypatch.setattr(campaign, "SECONDS_A_BATCH", 1.5)
    monkeypatch.setattr(campaign, "SECONDS_ALONE", 1.5)
    names = ("whole.exif", "crash.exif", "other.exif", "hang.exif")
    failures = campaign.run([campaign.Input("exif", name, b"") for name in names], jobs=1)
    assert [failure.inputs[0].name for failure in failures] == ["crash.exif", "hang.exif"]
    assert "ended with -6" in failures[0].what
    assert "no answer within" in failures[1].what


def test_properties_see_what_is_wrong(tmp_path: Path) -> None:
    """An exception that is not ours, and a command that changes its input, are failures."""
    (tmp_path / "a.exif").write_bytes(real.exif())
    assert properties.read("exif", tmp_path / "a.exif") == []
    wrong = properties.read("exif", tmp_path / "missing.exif")
    assert "FileNotFoundError" in wrong[0].what
    folder, out, model = tmp_path / "in", tmp_path / "out", tmp_path / "nearest.onnx"
    folder.mkdir()
    model.write_bytes(networks.nearest().SerializeToString())
    (folder / "a.png").write_bytes(real.pictures()["ours.png"])
    (folder / "b.png").write_bytes(b"no picture")
    assert properties.pictures(folder, out, model, ("--faces", "off"), ["a.png"]) == []
    found = properties.pictures(folder, tmp_path / "out2", model, ("--faces", "off"), ["b.png"])
    assert [finding.name for finding in found] == ["b.png"]
    (out / "leftover.part").touch()
    told = {"a.png": {"status": "restored", "result": str(out / "a.png"), "result_size": [1, 1]}}
    what = [finding.what for finding in properties._results(told, out, {})]
    assert "its result is 180×148, not [1, 1]" in what[0]
    assert "leftover.part" in what[1]


# ---- what campaigns found, by name


def test_found_a_face_of_no_bytes_in_a_tar(tmp_path: Path) -> None:
    """OpenCV raises an error of its own for an empty buffer."""
    with tarfile.open(tmp_path / "faces.tar", "w:") as tar:
        tar.addfile(tarfile.TarInfo("empty.png"))
    (face,) = faceset.find_faces([tmp_path / "faces.tar"])
    with pytest.raises(TrainingError, match=r"empty\.png"):
        faceset.decode_face(face, 16)


def test_found_a_face_that_claims_more_than_its_tar_holds(tmp_path: Path) -> None:
    """A size of gigabytes in the header of a cut-off tar was read in one piece, and its memory taken first."""
    path = tmp_path / "faces.tar"
    path.write_bytes(bytes(512) + b"only this")
    face = faceset.Face("huge.png", str(path), 512, 1 << 50)
    assert face.encoded() == b"only this"
    with pytest.raises(TrainingError, match=r"huge\.png"):
        faceset.decode_face(face, 16)


def test_found_an_onnx_whose_names_are_no_text(tmp_path: Path) -> None:
    """OpenVINO's own message was then no UTF-8, which Python could not read."""
    model = networks.nearest()
    model.graph.node[0].op_type = "Conw"
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString().replace(b"Conw", b"Co\xd6w"))
    properties.graph(path)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, 'name = "\\ud800"'])
@pytest.mark.parametrize("kind", ["recipe", "plan", "profile", "suite"])
def test_found_tomls_that_parsers_stumble_over(kind: str, text: str, tmp_path: Path) -> None:
    """Deep nesting ended in a RecursionError, thousands of digits in a ValueError that is no TOML error."""
    if kind == "recipe":
        pytest.importorskip("torch", reason="recipes belong to training, which needs torch")
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        properties.READERS[kind](tmp_path / "a.toml")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"version": 1}', '{"format": "bfsr-edge calibration", "scales": 1e999}']
)
@pytest.mark.parametrize("kind", ["calibration", "sidecar"])
def test_found_json_that_parsers_stumble_over(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.engine.json" if kind == "sidecar" else "a.json")
    path.write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        properties.READERS[kind](path)


def test_found_operators_of_a_version_in_the_millions(tmp_path: Path) -> None:
    """OpenVINO looked for each version up to it, for minutes."""
    model = networks.nearest()
    model.opset_import[0].version = 1 << 29
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read_onnx(tmp_path / "a.onnx")
    properties.graph(tmp_path / "a.onnx")


@pytest.mark.parametrize("inputs", [["input", "nowhere"], ["input"], []])
def test_found_a_convolution_without_a_weight(inputs: list[str], tmp_path: Path) -> None:
    """OpenVINO ended the process; ``inspect`` asked for the size of a tensor that the graph does not hold."""
    model = networks.nearest()
    model.graph.node[0].input[:] = inputs
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    properties.graph(path)


@pytest.mark.parametrize("changes", [{"excluded": [{}]}, {"graph_sha256": None}, {"floating": ["fp16"]}])
def test_found_a_calibration_with_names_that_are_no_text(changes: dict[str, object], tmp_path: Path) -> None:
    """They passed until the graph was quantized, and a table cannot be looked up."""
    (tmp_path / "a.json").write_text(json.dumps({**networks.calibration(), **changes}))
    with pytest.raises(ModelError, match="cannot be read as a calibration"):
        properties.calibration(tmp_path / "a.json")


def test_found_a_scale_above_all_numbers(tmp_path: Path) -> None:
    """A scale of 4,294,967,295 in an ONNX file made sizes that protobuf does not hold."""
    model = networks.nearest()
    model.metadata_props[0].value = str(0xFFFFFFFF)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(read_onnx(path).graph.node) == 2
    properties.graph(path)


def test_found_exif_whose_last_field_is_cut_off() -> None:
    """A field without a value passed as whole, and writing it anew went beyond the end."""
    field = struct.pack("<HHI", 0x0112, 3, 0)
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + field
    for missing in range(1, 5):
        with pytest.raises(ValueError, match="cut off"):
            image_metadata.upright(content + bytes(4 - missing))
    assert image_metadata.upright(content + bytes(4))


def test_found_a_profile_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Compressed chunks of a PNG are read up to a limit, so that a small picture stays small."""
    chunks = mutations.png_chunks(real.pictures()["ours.png"])
    chunks.insert(1, (b"iCCP", b"icc\0\0" + zlib.compress(bytes(200_000_000), 9)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(mutations.png_from(chunks))
    (tmp_path / "nearest.onnx").write_bytes(networks.nearest().SerializeToString())
    result = properties.run(
        ["restore", tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "nearest.onnx", "--faces", "off"]
    )
    assert not properties.broken(result)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"MM\0*\0\0\0\x08", real.exif()[:60], real.exif(order=">")[:90]])
def test_exif_that_is_cut_off_is_refused_by_value_error_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.exif").write_bytes(content)
    assert properties.read("exif", tmp_path / "a.exif") == []


def test_errors_of_ours_are_answers(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(BfsrError):
        read_onnx(tmp_path / "a.onnx")
