"""YAML that people write, read as strictly as JSON: no field twice, no merging, plain values only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tomopoint.errors import TomopointError, reason_of
from tomopoint.strict_json import Malformed, check_plain, read_bytes, shown

_MAX_VALUES = 50_000
"""Values at one depth of a file."""

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)")
"""Numbers such as ``1e-4``, which YAML 1.1 takes for texts unless they have a point and a sign."""


def read_yaml(path: Path, instead_of_merging: str, error: type[TomopointError] = TomopointError) -> Any:
    """Return what a YAML file holds; None where it is empty.

    Parameters
    ----------
    path
        The file.
    instead_of_merging
        What to do without ``<<``, for the message that refuses it.
    error
        Raised where the file cannot be read as YAML, or PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as missing:
        raise error(f"{path} is YAML, which takes PyYAML to read: pip install PyYAML") from missing

    class Loader(yaml.SafeLoader):
        """Reads ``1e-4`` as the number that it is, and refuses what would be taken silently.

        Of two options with one name PyYAML takes the last; ``<<`` is merged before anything can be counted, so that a
        few lines fill the memory.
        """

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if "<<" in names:
                raise Malformed(f"{shown('<<')} is not taken; {instead_of_merging}")
            if twice := [name for name in names if names.count(name) > 1]:
                raise Malformed(f"{shown(twice[0])} is there twice; remove one")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        content = yaml.load(read_bytes(path).decode(), Loader)
        check_plain(content, _MAX_VALUES)
    except RecursionError as fault:
        raise error(f"{path} cannot be read as YAML: nested too deeply") from fault
    # Beside its own errors PyYAML lets those of its converters through (a date of month 13, `!!bool maybe`).
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, yaml.YAMLError) as fault:
        raise error(f"{path} cannot be read as YAML: {reason_of(fault)}") from fault
    return content
