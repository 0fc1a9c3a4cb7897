"""What is told of the exceptions of libraries."""

from __future__ import annotations

import pytest

from bfsr_edge.errors import first_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "RuntimeError"),
        (" \n\n", "RuntimeError"),
        ("\n\n  it failed \nframe 1\nframe 2", "it failed"),
        ("Exception from src/inference/core.cpp:93:\nCheck 'shape' failed at src/shape.cpp:7:\nno shape\n", "no shape"),
        ("Exception from src/inference/core.cpp:93:\n", "Exception from src/inference/core.cpp:93:"),
    ],
)
def test_first_line(text: str, told: str) -> None:
    assert first_line(RuntimeError(text)) == told
