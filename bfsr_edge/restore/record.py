"""How a result tells what it was made from.

The record is an XMP packet inside the picture: it moves with the file, needs no folder of its own, and nothing but
pictures lands beside the results. A program that edits and saves a picture writes XMP anew, so the exact bytes of our
packet also say that nobody has worked on the result since. BMP holds no metadata: a result in BMP is never recognised.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from bfsr_edge import __version__
from bfsr_edge.errors import ImageError
from bfsr_edge.files import sha256
from bfsr_edge.images import read_xmp

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:bfsr="urn:bfsr-edge:1" bfsr:source="{source}" bfsr:recipe="{recipe}" bfsr:version="{version}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_PATTERN = re.compile(
    re.escape(_PACKET)
    .replace(re.escape("{source}"), "(?P<source>[0-9a-f]{64})")
    .replace(re.escape("{recipe}"), "(?P<recipe>[0-9a-f]{64})")
    .replace(re.escape("{version}"), "[0-9A-Za-z.+-]+")
)


@dataclass(frozen=True)
class Record:
    """What a result was made from."""

    source: str
    """sha256 of the input file."""
    recipe: str
    """sha256 of the weights and of every option that changes pixels; see ``recipe_of``."""

    def packet(self) -> bytes:
        """The XMP packet that says so."""
        return _PACKET.format(source=self.source, recipe=self.recipe, version=__version__).encode()


def recipe_of(weights: str, **options: float | str | None) -> str:
    """One hash for weights (their sha256) and options: the same recipe on the same input gives the same picture."""
    return hashlib.sha256(json.dumps({"weights": weights, **options}, sort_keys=True).encode()).hexdigest()


def parse(packet: bytes) -> Record | None:
    """The record in an XMP packet, ``None`` where it is not exactly as we write it."""
    # TIFF and some readers pad with zeros
    matched = _PATTERN.fullmatch(packet.rstrip(b"\0").decode("utf-8", "replace"))
    return Record(matched["source"], matched["recipe"]) if matched else None


def record_of(path: Path) -> Record | None:
    """The record inside a picture, ``None`` where there is none or the picture cannot be read."""
    try:
        return parse(read_xmp(path))
    except ImageError:
        return None


def digest_of(path: Path) -> str:
    """sha256 of a file; ImageError where it cannot be read."""
    try:
        return sha256(path)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
