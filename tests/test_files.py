"""Advice that fits: what cannot be read or written is told from what is broken."""

import errno
import json

import numpy as np
import pytest
import torch

from Utils.errors import UserError, in_one_line
from Utils.files import read_checkpoint, read_json, read_npz, write_checkpoint, write_whole

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path):
    """A file of each kind, and what reads it."""
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    write_checkpoint(tmp_path / "a.pt", {"a": torch.arange(3)})
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    return {
        tmp_path / "a.npz": lambda path: read_npz(path, ["a"]),
        tmp_path / "a.pt": lambda path: read_checkpoint(path, {}, CPU),
        tmp_path / "a.json": read_json,
    }


def test_what_may_not_be_read_is_not_called_broken(files, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", forbidden)
    for path, read in files.items():
        with pytest.raises(
            UserError, match=r"cannot read \(Permission denied\); mend that"
        ) as error:
            read(path)
        assert "delete" not in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_memory_that_is_not_there_is_not_called_broken(files, monkeypatch, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr("numpy.load", failing)
    monkeypatch.setattr("torch.load", failing)
    monkeypatch.setattr("json.loads", failing)
    for path, read in files.items():
        with pytest.raises(UserError, match="not enough memory to read it; make room"):
            read(path)
    assert in_one_line(error).startswith("out of memory (")


def test_what_is_broken_is_called_so(files):
    for path, read in files.items():
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(UserError, match="cut short, damaged or no "):
            read(path)
        path.unlink()
        with pytest.raises(UserError, match="no such file"):
            read(path)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "mend its rights or choose another folder")],
)
def test_what_cannot_be_written_has_the_advice_that_helps(tmp_path, number, advice):
    with (
        pytest.raises(UserError, match=rf"a: cannot write \(.*\); {advice}$"),
        write_whole(tmp_path / "a"),
    ):
        raise OSError(number, "some reason")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([1.0, np.inf]))
    with pytest.raises(UserError, match="a has values that are not finite"):
        read_npz(tmp_path / "a.npz", ["a"])
    torch.save({"a": {"b": [torch.tensor([torch.nan])]}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="has numbers that are not finite"):
        read_checkpoint(tmp_path / "a.pt", {}, CPU)


def test_a_fault_of_ours_keeps_its_traceback_and_an_interrupted_import_is_a_line():
    assert in_one_line(KeyError("ours")) is None
    failed = ImportError("numpy could not be imported")
    failed.__cause__ = KeyboardInterrupt()
    assert in_one_line(failed) == "interrupted"
