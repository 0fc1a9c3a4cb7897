"""A run folder made up for the tests of the report: every file of a full benchmark, numbers of a plausible size.

None of these numbers was measured. They are for looking at the page and never leave the tests' temporary folders.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bfsr_edge.benchmarks.results import EngineRow, columns

COLUMNS = columns(EngineRow)
REFERENCE_MS = 17.1
# id, kind, network, precision, backend, version, median ms, dB, drop, gmacs, parameters, note
ENGINES: list[tuple[str, str, str, str, str, str, float, float, float | None, float | None, int | None, str]] = [
    ("edge-fp32-openvino", "ours", "edge", "fp32", "openvino", "2026.4.1", 17.1, 29.10, None, 2.43, 2123104, ""),
    ("edge-int8-openvino", "ours", "edge", "int8", "openvino", "2026.4.1", 9.04, 29.09, 0.0097, 2.43, 2123104, ""),
    ("edge-fp32-onnxruntime", "ours", "edge", "fp32", "onnxruntime", "1.31.1", 24.6, 29.10, None, 2.43, 2123104, ""),
    ("edge-fp32-torch", "ours", "edge", "fp32", "torch", "2.13.0", 61.0, 29.10, None, 2.43, 2123104, ""),
    ("edge-fp32-compile", "ours", "edge", "fp32", "torch.compile", "2.13.0", 38.0, 29.10, None, 2.43, 2123104, ""),
    ("srresnet24-fp32-torch", "ours", "srresnet24", "fp32", "torch", "2.13.0", 902.0, 29.73, None, 51.2, 2108419, ""),
    ("srresnet24-int8-openvino", "ours", "srresnet24", "int8", "openvino", "2026.4.1", 121.0, 29.71, 0.021, 51.2,
     2108419, ""),
    ("bicubic", "baseline", "bicubic", "uint8", "opencv", "5.0.0", 0.52, 27.27, None, None, None, ""),
    ("lanczos", "baseline", "lanczos", "uint8", "opencv", "5.0.0", 1.31, 27.21, None, None, None, ""),
    ("realesrgan-x4plus-ncnn", "peer", "realesrgan-x4plus", "fp32", "ncnn", "1.0.20260101", 21900.0, 27.06, None, 292.0,
     16697987, "3 runs and 8 faces: slower than 1 s"),
    ("realesr-animevideov3-ncnn", "peer", "realesr-animevideov3", "fp32", "ncnn", "1.0.20260101", 1190.0, 27.63, None,
     10.1, 621424, "3 runs and 8 faces: slower than 1 s"),
]  # fmt: skip
SKIPPED = ("edge-fp16-tensorrt", "not run here: no NVIDIA GPU, and tensorrt is not installed")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def make(folder: Path, *, faces: int = 40) -> Path:
    """The whole folder, the same every time; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1), "utf-8")
    engines, images, latency = [], [], []
    for id_, kind, network, precision, backend, version, median, psnr, drop, gmacs, parameters, note in ENGINES:
        slow = median > 1000
        count = 3 if slow else 200
        times = [median * (1 + abs(rng.gauss(0, 0.012)) + (0.2 * rng.random() if rng.random() < 0.04 else 0) - 0.008)
                 for _ in range(count)]  # fmt: skip
        times.sort()
        latency += [(id_, number % 3, f"{time:.4f}") for number, time in enumerate(rng.sample(times, count))]
        scored = 8 if slow else faces
        drops = [max(-0.004, rng.gauss(drop, drop * 0.7)) for _ in range(scored)] if drop else []
        drops = [d + (0.0383 - max(drops) if d == max(drops) and network == "edge" else 0) for d in drops]
        for number in range(scored):
            cells = (f"{psnr + rng.gauss(0, 1.6):.4f}", f"{rng.uniform(0.70, 0.86):.4f}")
            images.append((id_, f"{number:05d}.png", *cells, f"{drops[number]:.5f}" if drops else None))
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row.update(
            id=id_, kind=kind, network=network, precision=precision, backend=backend, backend_version=version,
            device="cpu", threads=2, tile="128x128" if kind != "baseline" else None, batch=1, parameters=parameters,
            gmacs=gmacs, mbytes=4 * parameters / 1e6 if parameters else None, n_images=scored,
            psnr_mean=psnr, psnr_worst=psnr - 4.2, psnr_std=1.62, ssim_mean=0.79, ssim_worst=0.62,
            drop_mean=drop, drop_worst=max(drops) if drops else None, drop_std=0.008 if drop else None,
            latency_min_ms=times[0], latency_mean_ms=sum(times) / count, latency_median_ms=times[count // 2],
            latency_p90_ms=times[int(0.9 * count)], latency_p95_ms=times[int(0.95 * count)],
            latency_p99_ms=times[int(0.99 * count)], latency_cv=0.031, latency_n=count,
            ratio_to_reference=median / REFERENCE_MS, cold_start_s=None if kind == "baseline" else rng.uniform(0.2, 2),
            peak_rss_mb=rng.uniform(150, 900), gmacs_per_s=gmacs / median * 1000 if gmacs else None,
            roofline_compute=min(0.9, gmacs / median * 1000 / 450) if gmacs else None,
            roofline_memory=rng.uniform(0.03, 0.3) if gmacs else None,
            note=note,
        )  # fmt: skip
        engines.append([row[name] for name in COLUMNS])
    skipped: dict[str, Any] = dict.fromkeys(COLUMNS)
    skipped.update(id=SKIPPED[0], kind="ours", network="edge", precision="fp16", backend="tensorrt", note=SKIPPED[1])
    engines.append([skipped[name] for name in COLUMNS])
    write_csv(folder / "engines.csv", COLUMNS, engines)
    write_csv(folder / "images.csv", ("id", "image", "psnr", "ssim", "drop"), images)
    write_csv(folder / "latency.csv", ("id", "round", "ms"), latency)
    rates = {"edge-int8-openvino": 111, "edge-fp32-openvino": 58, "edge-fp32-onnxruntime": 41, "edge-fp32-torch": 16.4}
    write_csv(
        folder / "throughput.csv", ("id", "batch", "faces_per_s"),
        [(id_, batch, f"{rate * (1.25 - 0.25 / batch):.2f}") for id_, rate in rates.items()
         for batch in (1, 2, 4, 8, 16)],
    )  # fmt: skip
    names = ("id", "megapixels", "scale", "wall_s", "decode_s", "network_s", "encode_s", "peak_rss_mb")
    write_csv(
        folder / "sizes.csv", names,
        [("edge-int8-openvino", mp, scale, round(0.2 + mp * cost * rng.uniform(0.95, 1.05), 3), round(0.02 * mp, 3),
          round(mp * cost * 1.7, 3), round(0.11 * mp, 3), round(420 + (5 + scale) * mp, 1))
         for scale, cost in ((4, 1.0), (1, 0.9)) for mp in (1, 2, 5, 12, 24, 50)],
    )  # fmt: skip
    layers = ("/head/Conv", "/down.0/Conv", "/encoder.1/encoder.1.0/conv1/Conv", "/encoder.1/encoder.1.0/conv2/Conv",
              "/down.1/Conv", "/encoder.2/encoder.2.0/conv1/Conv", "/up.1/Conv", "/decoder.0/decoder.0.0/conv1/Conv",
              "/decoder.0/decoder.0.0/conv2/Conv", "/tail/Conv", "/skip/Conv")  # fmt: skip
    costs = (0.0017, 0.0010, 0.0007, 0.0003, 0.0010, -0.00006, 0.0009, 0.0026, 0.0014, 0.0019, 0.0306)
    write_csv(folder / "layers.csv", ("layer", "drop_db", "macs"),
              [(layer, cost, round(2.43e9 * 0.02 * (1 + place % 4))) for place, (layer, cost) in
               enumerate(zip(layers, costs, strict=True))])  # fmt: skip
    for name, best in (("edge", 29.10), ("srresnet24-l1", 29.73)):
        steps = range(500, 150_001, 500)
        write_csv(
            folder / "curves" / f"{name}.csv",
            ("iteration", "seconds", "rate", "loss", "faces_per_second", "val_psnr"),
            [(step, step / 10, 1e-4, f"{0.045 + 0.03 * math.exp(-step / 9000) + rng.gauss(0, 0.0006):.6f}", 800,
              f"{best - 2.4 * math.exp(-step / 24000) + rng.gauss(0, 0.02):.4f}" if step % 5000 == 0 else None)
             for step in steps],
        )  # fmt: skip
    gallery(folder / "gallery")
    return folder


def machine() -> dict[str, Any]:
    """What machine.json holds."""
    return {
        "date": "2026-11-22T16:00:00+00:00",
        "command": "bfsr-edge benchmark --full --lq pairs/lq --gt pairs/gt",
        "name": "amd-epyc-made-up-2",
        "bfsr-edge": {"version": "0.1.0"},
        "python": {"version": "3.11.2"},
        "system": {"name": "Debian GNU/Linux 12 (bookworm), 6.1.0", "kind": "linux-x86_64"},
        "cpu": {"name": "AMD EPYC (made up)", "cores": 2, "features": ["avx2", "avx512f", "avx512_vnni"]},
        "memory": {"total": "8.0 GiB", "available": "6.5 GiB"},
        "gpu": {"none": "no NVIDIA driver was found, or it sees no GPU"},
        "jetson": {},
        "threads": 2,
        "versions": {"openvino": "2026.4.1", "onnxruntime": "1.31.1", "torch": "2.13.0", "numpy": "2.5.0"},
        "perceptual": "",
        "suite": "full",
        "energy": "not measured: no sensor that can be read",
        "peaks": {
            "macs": {"fp32": 1.5e11, "int8": 4.5e11},
            "by": {"fp32": "numpy", "int8": "openvino"},
            "copy": 1.8e10,
        },
        "pairs": "40 pairs of pairs/lq and pairs/gt",
        "warnings": ["latency varied by more than 2 %: edge-int8-openvino (3.1%)."],
        "finished": True,
        "before": {"CPU clocks in MHz": [3100, 3090], "load average of a minute": 0.1},
        "after": {"CPU clocks in MHz": [3050, 3060], "load average of a minute": 2.2},
    }


def gallery(folder: Path, count: int = 3) -> None:
    """Quadruples drawn from noise and shapes; the input is a quarter of the others' side."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    rows = []
    for number in range(1, count + 1):
        face = np.full((512, 512, 3), (90 + 30 * number, 120, 150), np.uint8)
        cv2.ellipse(face, (256, 270), (140, 190), 0, 0, 360, (150, 180, 225), -1, cv2.LINE_AA)
        for x in (200, 312):
            cv2.circle(face, (x, 230), 22, (60, 50, 40), -1, cv2.LINE_AA)
        cv2.ellipse(face, (256, 350), (60, 26), 0, 0, 180, (70, 70, 170), -1, cv2.LINE_AA)
        low = np.clip(
            cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA) + rng.normal(0, 14, (128, 128, 3)), 0, 255
        )
        fp32 = cv2.GaussianBlur(face, (0, 0), 2)
        step = rng.normal(0, 1.2, (64, 64, 3))
        change = cv2.resize(step, (512, 512), interpolation=cv2.INTER_CUBIC)
        int8 = np.clip(fp32 + change, 0, 255).round().astype(np.uint8)
        difference = np.clip(128 + 8.0 * (int8.astype(float) - fp32), 0, 255).astype(np.uint8)
        pictures = {"input": low.astype(np.uint8), "fp32": fp32, "int8": int8, "diff8": difference}
        for name, picture in pictures.items():
            assert cv2.imwrite(str(folder / f"{number:02d}-{name}.png"), picture)
        rows.append((number, f"{number:05d}.png", "edge-int8-openvino", 28.4 - number, 28.36 - number))
    write_csv(folder / "gallery.csv", ("n", "image", "id", "psnr_fp32", "psnr_int8"), rows)
