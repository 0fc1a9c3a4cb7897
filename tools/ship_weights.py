"""Put a trained network among the shipped ones: weights/NAME.safetensors, weights/NAME.onnx and the manifest entry.

Run in a checkout with the train and onnxruntime extras installed, after ``bfsr-edge evaluate`` has told the scores:

    python tools/ship_weights.py runs/edge/best.safetensors --summary "Faces ×4, 4 GMAC" --score val_psnr=29.31

The checkpoint holds fp16 weights; the ONNX holds none, but names their places in the checkpoint (ONNX external data),
so nothing is shipped twice. A calibration belongs to its weights: an older one is dropped. After `bfsr-edge calibrate
--model NAME` has made the new one, run the same command again with `--calibration NAME.calibration.json`.
Write the model card (weights/MODEL_CARD.md) by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from bfsr_edge import quantization, weights
from bfsr_edge.calibration import Calibration
from bfsr_edge.errors import BfsrError, ModelError, UsageError
from bfsr_edge.files import replace

LICENCE = "CC BY-NC-SA 4.0"  # the terms of the faces that the weights were trained on


def ship(
    checkpoint: Path,
    name: str,
    summary: str,
    scores: dict[str, float],
    licence: str = LICENCE,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """Make both files, then move them and the manifest into place; a model of that name is replaced. The new entry."""
    from bfsr_edge.export import export
    from bfsr_edge.models import load_checkpoint, read_header, save_checkpoint

    network = load_checkpoint(checkpoint)
    provenance = read_header(checkpoint) if checkpoint.suffix == ".safetensors" else {}
    files = {"checkpoint": f"{name}.safetensors", "onnx": f"{name}.onnx"}
    with TemporaryDirectory(dir=weights.FOLDER) as folder:
        made = {kind: Path(folder, file) for kind, file in files.items()}
        save_checkpoint(made["checkpoint"], network, provenance, half=True)
        exported = export(made["checkpoint"], made["onnx"], fp16_weights=True, name=name)
        share_weights(made["onnx"], made["checkpoint"])
        if calibration:
            files["calibration"] = f"{name}.calibration.json"
            made["calibration"] = Path(folder, files["calibration"])
            shutil.copyfile(calibration, made["calibration"])
            # refuses a calibration of other weights
            quantization.place(onnx.load(made["onnx"]), Calibration.load(calibration))
        hashes = {kind: weights.sha256_of(path) for kind, path in made.items()}
        for path in made.values():
            os.replace(path, weights.FOLDER / path.name)
        if not calibration:
            (weights.FOLDER / f"{name}.calibration.json").unlink(missing_ok=True)
    entry = {
        "name": name,
        "summary": summary,
        "architecture": exported.architecture,
        "parameters": exported.parameters,
        "gmacs": round(exported.gmacs, 3),
        "licence": licence,
        "scores": scores,
        "files": {kind: {"path": file, "sha256": hashes[kind]} for kind, file in files.items()},
    }
    manifest = weights.FOLDER / "manifest.json"
    content = json.loads(manifest.read_text("utf-8"))
    names = [model["name"] for model in content["models"]]
    if name in names:
        content["models"][names.index(name)] = entry
    else:
        content["models"].append(entry)
    replace(manifest, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return entry


def share_weights(graph: Path, checkpoint: Path) -> None:
    """Replace each fp16 weight in ``graph`` by its place in the safetensors file beside it.

    A safetensors file is 8 bytes that count the header's, a JSON header with each tensor's place, and the plain bytes.
    """
    from onnx.external_data_helper import set_external_data

    content = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, start = json.loads(content[8 : 8 + length]), 8 + length
    proto = onnx.load(graph)
    for tensor in proto.graph.initializer:
        stored = header.get(tensor.name.removesuffix(".fp16"))
        if stored is None or stored["dtype"] != "F16":
            continue
        begin, end = (start + offset for offset in stored["data_offsets"])
        if content[begin:end] != tensor.raw_data:
            raise ModelError(f"{tensor.name} is another tensor in {checkpoint} than in {graph}")
        set_external_data(tensor, checkpoint.name, begin, end - begin)
        tensor.ClearField("raw_data")
    graph.write_bytes(proto.SerializeToString(deterministic=True))


def score(text: str) -> tuple[str, float]:
    """``val_psnr=29.31`` as a pair."""
    figure, _, value = text.partition("=")
    if not figure.isidentifier():
        raise UsageError(f"{text} is not NAME=VALUE")
    return figure, float(value)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the model ships, 1 when it cannot, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", default=weights.DEFAULT)
    parser.add_argument("--summary", required=True, help="one line on what it is for")
    parser.add_argument("--score", action="append", default=[], metavar="NAME=VALUE", help="may be given several times")
    parser.add_argument("--licence", default=LICENCE)
    parser.add_argument("--calibration", type=Path, help="what bfsr-edge calibrate made of exactly these weights")
    given = parser.parse_args(arguments)
    try:
        scores = dict(score(text) for text in given.score)
        entry = ship(given.checkpoint, given.name, given.summary, scores, given.licence, given.calibration)
    except BfsrError as error:
        print(f"ship_weights: {error}", file=sys.stderr)
        return error.exit_code
    except ValueError as error:
        print(f"ship_weights: {error}", file=sys.stderr)
        return 2
    print(json.dumps(entry, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
