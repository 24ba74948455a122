"""The libraries that formats are read and written with; they come with the extra ``lab``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tomopoint.errors import DataError
from tomopoint.extras import how_to_install

LIBRARIES: Mapping[str, str] = {
    "relion5": "starfile",
    "relion4": "starfile",
    "relion3": "starfile",
    "dynamo": "dynamotable",
    "imod": "imodmodel",
}


def check_library(kind: str) -> None:
    """DataError where the library of a format is not installed; some formats need none."""
    library = LIBRARIES.get(kind)
    if library and find_spec(library) is None:
        raise DataError(f"{kind} {how_to_install(library)}")
