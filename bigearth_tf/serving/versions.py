"""Versions of a model: the folders of its name that are numbers."""

from __future__ import annotations

from pathlib import Path


def versions(folder: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder."""
    return [int(p.name) for p in folder.iterdir() if is_version(p.name)] if folder.is_dir() else []


def is_version(name: str) -> bool:
    """Say whether a folder's name is a version: a number from 1, written as numbers are."""
    return name.isascii() and name.isdecimal() and not name.startswith("0")
