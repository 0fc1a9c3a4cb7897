"""Settings: tables of TOML files as frozen dataclasses, for recipes, plans, profiles and suites alike."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from bfsr_edge.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def from_mapping(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a TOML table; unknown keys and wrong types are errors that name them."""
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise UsageError(f"{where}: unknown key {key!r}", fix=f"known keys: {', '.join(names)}")
        arguments[key] = _convert(hints[key], value, f"{where}: {key}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be a table")
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    origin = getattr(hint, "__origin__", hint)
    if origin is tuple:
        value = [value] if isinstance(value, str) else value
        inner = get_args(hint)  # of one kind and any number, or one kind for each place
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis and isinstance(value, list) else inner
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
        if isinstance(value, list):
            raise UsageError(f"{where}: {value!r} has {len(value)} values, not {len(kinds)}")
        raise UsageError(f"{where}: {value!r} is no list")
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, origin) and (origin is bool or not isinstance(value, bool)):
        return value
    raise UsageError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")


def overlay(values: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the tables of ``extra`` laid over, key by key."""
    out = dict(values)
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict) and key != "settings":
            out[key] = overlay(out[key], value)
        else:
            out[key] = value
    return out


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises
    ------
    UsageError
        The file cannot be read or is no TOML; the line is named.
    """
    try:
        with open(path, "rb") as file:
            values: dict[str, Any] = tomllib.load(file)
            return values
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise UsageError(f"{path} cannot be read as TOML", why=(str(error),)) from error


def read_setting(text: str) -> dict[str, Any]:
    """A table from ``KEY=VALUE``, the key with dots: ``loss.weight=0.5``. A value that is no TOML is a text.

    Raises
    ------
    UsageError
        There is no ``=``, or the key is none.
    """
    key, marked, value = text.partition("=")
    for written in (value, f'"{value}"'):
        try:
            if marked:
                return dict(tomllib.loads(f"{key} = {written}"))
        except (ValueError, RecursionError):
            continue
    raise UsageError(f"--set {text} is not KEY=VALUE", fix="as in --set loss.weight=0.5 --set loss.first=l1")
