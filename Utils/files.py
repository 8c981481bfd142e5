"""Files that are written whole or not at all, and checked when they are read."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from Utils.errors import UserError, is_out_of_memory, need

ANEW = "delete it and make it anew"
COMPRESSED = (".gz", ".bz2", ".zst")  # suffixes of texts that are read as they were before
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # there is no room
LARGE = 1 << 26  # bytes; arrays that have as many stay in files, and are mapped into memory
AT_A_TIME = 1 << 23  # bytes of them that are looked at together
ALIGNED = 64  # bytes, of which the place of an array in a file is a multiple
PADDING, ZIP64 = 0xD935, 20  # what such room is called in zip files; bytes for large sizes there

# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


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
        remove_leftovers(path.parent, path.name)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what processes that were killed had begun to write, of the file ``name`` or of all."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        writer = leftover.name.split(".")[-2]
        with contextlib.suppress(OSError):
            if writer.isdigit() and not _is_alive(int(writer)):
                leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals (missing rights, full disk) into one line about ``path``."""
    try:
        yield
    except BrokenPipeError:  # no file, but whoever read the output
        raise
    except OSError as error:
        full = error.errno in FULL or error.errno is None  # torch does not say why
        remedy = "make room" if full else "mend its rights or choose another folder"
        raise UserError(f"{path}: cannot write ({error.strerror}); {remedy}") from error


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors, numbers and texts with ``torch.save``; equal content, equal bytes."""
    with write_whole(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # how torch reports that the file took no more bytes
            raise OSError(None, str(error).splitlines()[0]) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a readable JSON file."""
    with write_whole(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def write_npz(file: BinaryIO, arrays: dict[str, Any]) -> None:
    """Write what ``np.savez`` does, but so that ``read_npz`` can map each array where it stands."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, value in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            start = file.tell() + zipfile.sizeFileHeader + len(member.filename) + ZIP64
            room = -(start + 4) % ALIGNED
            member.extra = struct.pack("<HH", PADDING, room) + bytes(room)
            with archive.open(member, "w", force_zip64=True) as room_of_it:
                _write_array(room_of_it, np.asanyarray(value))


def _write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Write what ``np.save`` does; what is mapped passes through memory."""
    if array.nbytes < LARGE:
        np.lib.format.write_array(file, array, allow_pickle=False)
        return
    about = np.lib.format.header_data_from_array_1_0(array) | {"fortran_order": False}
    np.lib.format.write_array_header_1_0(file, about)
    for part in in_chunks(array):
        file.write(np.ascontiguousarray(part).view(np.uint8).data)


@contextlib.contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it when the process ends.

    With ``wait``, a folder that another process holds is waited for.

    Raises
    ------
    UserError
        If another process holds it, and nobody waits.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(
                    f"{folder}: another process writes here; wait for it or use --name"
                ) from None
            print(f"{folder}: another process writes here; waiting for its end", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------
# Arrays that are too large to be held
# ---------------------------------------------------------------------------------------------


def room_for(shape: tuple[int, ...], dtype: type, folder: Path | None) -> np.ndarray:
    """Return an array to be filled: in memory or, if it is large, in a file without a name.

    The file is in ``folder``, if there is one, and goes when the array does.

    Raises
    ------
    UserError
        If the folder cannot be written, or has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if folder is None or size < LARGE:
        return np.empty(shape, dtype)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # later, nobody could say that it is full
            return np.memmap(file, dtype, "r+", shape=shape)


def require_room(folder: Path, size: int) -> None:
    """Raise ``UserError`` unless a folder's disk has room for so many bytes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{folder}: {size / 1e9:,.1f} GB are to be written here, and {free / 1e9:,.1f} are "
            f"free; make room or choose another folder"
        )


def in_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array's rows, a few at a time; of one that is mapped, no more stay in memory."""
    step = max(AT_A_TIME // max(array[:1].nbytes, 1), 1)
    for start in range(0, len(array), step):
        yield array[start : start + step]
        release(array)


def release(array: np.ndarray) -> None:
    """Have the system take an array out of memory, if it is in a file; it comes back when asked."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap):
        array.madvise(mmap.MADV_DONTNEED)


# ---------------------------------------------------------------------------------------------
# Reading: nothing comes in unchecked
# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path, kind: str, remedy: str) -> Iterator[BinaryIO]:
    """Open a file, and say in one line what is wrong where it cannot be opened or understood."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file" + f"; {remedy}" * (remedy != ANEW)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); mend that") from error
    with file:
        try:
            yield file
        except UserError:
            raise
        except Exception as error:  # broken and foreign files make libraries raise all kinds
            if is_out_of_memory(error):
                raise UserError(f"{path}: not enough memory to read it; make room") from error
            raise UserError(f"{path}: cut short, damaged or no {kind}; {remedy}") from error


def _check_zip(file: BinaryIO) -> None:
    """Raise if a member's checksum does not fit; both NumPy and PyTorch write zip files."""
    with zipfile.ZipFile(file) as archive:
        if broken := archive.testzip():
            raise zipfile.BadZipFile(broken)
    file.seek(0)


def read_npz(
    path: Path, names: list[str], remedy: str = ANEW, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the named arrays of an ``.npz`` file, and those of the optional ones that it has.

    Large ones are mapped into memory, so that nobody should change the file afterwards.

    Raises
    ------
    UserError
        If the file is missing, damaged (by its checksums), holds other things, or numbers that are
        not finite.
    """
    with opened(path, ".npz file", remedy) as raw:
        _check_zip(raw)
        with np.load(raw, allow_pickle=False) as file:
            for name in names:
                if name not in file.files:
                    raise UserError(f"{path}: holds no {name!r}; it is another kind of file")
            wanted = [name for name in (*names, *optional) if name in file.files]
            arrays = {name: _mapped(raw, file, name) for name in wanted}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UserError(f"{path}: {name} has values that are not finite; {remedy}")
    return arrays


def _mapped(raw: BinaryIO, file: Any, name: str) -> np.ndarray:
    """Return an array of an ``.npz`` file that is open, mapped if it is large and if it can be.

    It is to be read: what is written there, ``release`` would take away.
    """
    member = file.zip.getinfo(f"{name}.npy")
    if member.file_size < LARGE or member.compress_type != zipfile.ZIP_STORED:
        return file[name]
    raw.seek(member.header_offset + zipfile.sizeFileHeader - 4)
    raw.seek(sum(struct.unpack("<HH", raw.read(4))), os.SEEK_CUR)  # its name, and what is extra
    version = np.lib.format.read_magic(raw)
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(raw)
    if version != (1, 0) or by_columns or dtype.hasobject or raw.tell() % dtype.itemsize:
        return file[name]
    return np.memmap(raw, dtype, "c", raw.tell(), shape)


def require_ids(
    where: object, name: str, ids: np.ndarray, shape: tuple[int | None, ...], bound: int
) -> None:
    """Raise ``UserError`` unless these are integers of this shape, from 0 to ``bound`` - 1.

    Native kernels do not look. None in ``shape`` is any length.
    """
    fits = len(ids.shape) == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, ids.shape, strict=True)
    )
    if not fits or ids.dtype.kind not in "iu":
        wanted = " x ".join("any" if length is None else f"{length:,}" for length in shape)
        found = f"{ids.dtype} of {' x '.join(f'{length:,}' for length in ids.shape) or 'one'}"
        raise UserError(f"{where}: {name} is {found}, not {wanted} integers; {ANEW}")
    if not ids.size:
        return
    least, most = np.array([(part.min(), part.max()) for part in in_chunks(ids)]).T
    if least.min() < 0 or most.max() >= bound:
        raise UserError(
            f"{where}: {name} has {least.min()} to {most.max()}, beyond 0 to {bound - 1:,}; {ANEW}"
        )


def require_like(
    path: Path, what: str, found: object, expected: dict[str, Tensor], remedy: str
) -> None:
    """Raise ``UserError`` unless ``found`` has tensors of these names, shapes and dtypes."""
    found = found if isinstance(found, dict) else {}
    for name in {**expected, **found}:
        mine, theirs = expected.get(name), found.get(name)
        if not (isinstance(mine, Tensor) and isinstance(theirs, Tensor)):
            said = "missing" if theirs is None else "not expected"
        elif (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            said = f"{_size(theirs)}, not {_size(mine)}"
        else:
            continue
        raise UserError(f"{path}: its {what} do not fit, {_short(name)} is {said}; {remedy}")


def _size(tensor: Tensor) -> str:
    return f"{' x '.join(map(str, tensor.shape)) or 'one'} {str(tensor.dtype).split('.')[1]}"


def _short(value: object) -> str:
    """Return a value as text that fits into a line."""
    text = str(value).replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:77]}..."


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
        If the file is damaged (by its checksums) or foreign, if it differs in one of the entries
        of ``identity``, or if it has numbers that are not finite.
    """
    with opened(path, "checkpoint", remedy) as file:
        _check_zip(file)
        content = torch.load(file, map_location=device, weights_only=True)
    for key, expected in identity.items():
        found = content.get(key) if isinstance(content, dict) else None
        if type(found) is not type(expected) or found != expected:
            raise UserError(f"{path}: its {key} is {_short(found)}, not {expected}; {remedy}")
    parts = (  # for a table as a whole, as much again would be held
        part
        for tensor in _tensors(content)
        for part in tensor.reshape(-1).split(AT_A_TIME // tensor.itemsize)
    )
    if not all(part.isfinite().all() for part in parts):
        raise UserError(f"{path}: has numbers that are not finite; {remedy}")
    return content


def _tensors(content: object) -> Iterator[Tensor]:
    """Yield all tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        parts: Iterable[object] = content.values() if isinstance(content, dict) else content
        for part in parts:
            yield from _tensors(part)


def read_json(path: Path, remedy: str = "--overwrite starts again") -> dict[str, Any]:
    """Read a JSON file that holds an object; raises ``UserError`` if it is missing or broken."""
    with opened(path, "JSON file", remedy) as file:
        content = json.loads(file.read())
        if not isinstance(content, dict):
            raise ValueError(path)
    return content


def read_lines(path: Path, remedy: str) -> list[str]:
    """Return the lines of a text; raises ``UserError`` if it is missing or not in UTF-8."""
    with opened(path, "text in UTF-8", remedy) as file:
        text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
        return text.removesuffix("\n").split("\n")


def open_plain(path: Path) -> BinaryIO:
    """Open a file, of which what is compressed is read as it was before."""
    if path.suffix not in COMPRESSED:
        return open(path, "rb")
    arrow = need("pyarrow", "pyarrow", f"{path}: compressed text")
    return arrow.input_stream(str(path), compression="detect")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with opened(path, "file", "put it there") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
