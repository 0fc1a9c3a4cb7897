"""ONNX files from anywhere, read so that nothing outside their folder is opened and nothing is larger than it says.

An ONNX file is data, but it may name other files that hold its tensors (external data), and it states sizes that the
libraries behind it allocate. Here both are checked first. What is read holds all its tensors, so that no library looks
for a file again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfsr_edge.errors import ModelError, first_line

if TYPE_CHECKING:
    import onnx

SIZES = {
    **dict.fromkeys(("BOOL", "INT8", "UINT8"), 1),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 2),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 4),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 8),
    "COMPLEX128": 16,
}
"""Bytes a number takes, of the types that a network of pictures has; 8-bit floats and packed types are left to onnx."""
MAX_OPSET = 1_000
FIX = "export it again with: bfsr-edge export --model CHECKPOINT --out FILE.onnx"


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """An ONNX file with every tensor in it.

    Raises
    ------
    ModelError
        It is no ONNX file; a tensor is of another size than its shape says; or one lies in a file outside the folder of
        the ONNX file, behind a link, or not where the ONNX file says.
    """
    import onnx

    path = Path(path)
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several classes
        raise _refused(path, first_line(error)) from error
    try:
        for tensor in _tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                _fetch(tensor, path.parent)
            else:
                _check_size(tensor)
        _check_structure(proto)
    except (ValueError, OSError) as error:
        raise _refused(path, first_line(error)) from error
    return proto


def _check_structure(proto: onnx.ModelProto) -> None:
    """ValueError where nodes are not what their operators take: OpenVINO 2026.4 ends the process over some of them."""
    import onnx

    newest = max((entry.version for entry in proto.opset_import), default=0)
    if newest > MAX_OPSET:  # OpenVINO looks at every version up to it
        raise ValueError(f"its operators are of version {newest}")
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the latter for a message that is no UTF-8
        reason = "a name in it is no text" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise ValueError(f"it is no valid graph: {reason}") from error


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} cannot be read as ONNX", why=(reason,), fix=FIX)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it stands: in graphs, in attributes, in graphs inside attributes, in functions."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in (value,) if hasattr(value, "ListFields") else value:
            yield from _tensors(part)


def _fetch(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read a tensor that lies in another file; ValueError where that file is not to be opened, or is too short."""
    import onnx

    said = {entry.key: entry.value for entry in tensor.external_data}
    file = _inside(folder, said.get("location", ""), tensor.name)
    size = _bytes(tensor)
    if size is None:
        raise ValueError(f"{tensor.name} is of a type that cannot lie in another file")
    offset, length = _number(said, "offset", 0), _number(said, "length", size)
    if length != size or offset + length > file.stat().st_size:
        raise ValueError(
            f"{tensor.name} takes {size} bytes, and {length} at {offset} of {file.name} are named, "
            f"which has {file.stat().st_size}"
        )
    with open(file, "rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(length)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def _inside(folder: Path, location: str, name: str) -> Path:
    """The file that a tensor names; ValueError unless it lies beside the ONNX file or below, no link on the way."""
    parts = location.replace("\\", "/").split("/")
    # a colon is a drive or a stream of Windows; a NUL ends a name for some and not for others
    if not location or location.startswith(("/", "\\")) or ".." in parts or {":", "\0"} & set(location):
        raise ValueError(f"{name} names {location!r}, which is outside the folder of the ONNX file")
    file = folder.joinpath(*parts)
    if os.path.realpath(file) != os.path.join(os.path.realpath(folder), os.path.normpath(os.path.join(*parts))):
        raise ValueError(f"{name} names {location!r}, which is a link")
    if not file.is_file():
        raise ValueError(f"{name} lies in {location!r}, and there is no such file beside the ONNX file")
    return file


def _number(said: Mapping[str, str], key: str, default: int) -> int:
    number = int(said[key]) if said.get(key) else default
    if number < 0:
        raise ValueError(f"external data with a {key} of {number}")
    return number


def _check_size(tensor: onnx.TensorProto) -> None:
    """ValueError where a tensor does not hold what its shape says: libraries would read or allocate beyond it."""
    if tensor.HasField("segment"):
        raise ValueError(f"{tensor.name} is stored in segments, which is not read here")
    size = _bytes(tensor)
    if size is None:
        return
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise ValueError(f"{tensor.name} holds {len(tensor.raw_data)} bytes, its shape takes {size}")
        return
    held = max(
        len(numbers)
        for numbers in (
            tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
        )
    )  # fmt: skip
    count = math.prod(tensor.dims)
    if held != count and held != 2 * count:  # a complex number is stored as two
        raise ValueError(f"{tensor.name} holds {held} numbers, its shape takes {count}")


def _bytes(tensor: onnx.TensorProto) -> int | None:
    """What the shape takes; ``None`` for types that ``SIZES`` does not know."""
    import onnx

    if any(side < 0 for side in tensor.dims):
        raise ValueError(f"{tensor.name} has a side of {min(tensor.dims)}")
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise ValueError(f"{tensor.name} is of the unknown type {tensor.data_type}")
    size = SIZES.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    return None if size is None else math.prod(tensor.dims) * size
