"""TensorBoard's event files, written in step with the run: no thread that a full disk could end behind its back."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

_written = 0


class Board:
    """Scalars and pictures for TensorBoard.

    Parameters
    ----------
    folder
        Of the run; gets one more event file.
    iteration
        Where the run goes on: TensorBoard then forgets what earlier files hold behind it. 0 for a new one.

    Raises
    ------
    OSError
        From every method: the disk cannot be written to.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]  # not typed
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]  # not typed

        global _written
        _written += 1
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.{_written}"
        self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115  (closed by close)
        self._records = RecordWriter(self._file)
        self._event(file_version="brain.Event:2")
        if iteration:
            self._event(step=iteration + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, iteration: int, row: dict[str, float]) -> None:
        """One number for each name."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]  # not typed

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._event(step=iteration, summary=Summary(value=values))

    def picture(self, iteration: int, name: str, encoded: bytes, height: int, width: int) -> None:
        """A picture as PNG or JPEG."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        self._event(step=iteration, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _event(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
