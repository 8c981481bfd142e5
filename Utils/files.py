"""Files that are written whole or not at all, and their hashes."""

import contextlib
import fcntl
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from Utils.errors import UserError


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name ``path`` once it is complete and on disk.

    Raises
    ------
    UserError
        If the folder cannot be written (missing rights, full disk); ``path`` is then as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals (missing rights, full disk) into one line about ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror}); make room or choose another folder"
        ) from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it when the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"{folder}: another process writes here; wait for it or use --name"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return the named arrays of an ``.npz`` file.

    Raises
    ------
    UserError
        If the file is missing, cut short, or holds other things.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except KeyError as error:
        raise UserError(f"{path}: holds no {error}; it is another kind of file") from error
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cut short or no .npz file; delete it and make it anew") from error


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors, numbers and texts with ``torch.save``; equal content, equal bytes."""
    with write_whole(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # how torch reports that the file took no more bytes
            raise OSError(None, str(error).splitlines()[0]) from error


def read_checkpoint(
    path: Path,
    identity: dict[str, Any],
    device: torch.device,
    remedy: str = "use the checkpoint of this run, or --overwrite to start again",
) -> dict[str, Any]:
    """Read what ``write_checkpoint`` wrote, if it is what ``identity`` says; else say ``remedy``.

    Raises
    ------
    UserError
        If the file is cut short or foreign, or differs in one of the entries of ``identity``.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except Exception as error:  # a broken or foreign file makes torch raise one of many kinds
        raise UserError(f"{path}: cut short or no checkpoint; {remedy}") from error
    for key, expected in identity.items():
        found = content.get(key) if isinstance(content, dict) else None
        if found != expected:
            raise UserError(f"{path}: its {key} is {found}, not {expected}; {remedy}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a readable JSON file."""
    with write_whole(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; raises ``UserError`` if it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or no JSON; --overwrite starts again") from error
