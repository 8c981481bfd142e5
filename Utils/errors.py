"""The one error that is meant for the person at the keyboard, and what else is said in one line."""

import importlib
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, TracebackType


class UserError(Exception):
    """What a user can get wrong; its text is one line: what, where (``file:line``), what to do.

    Scripts print it without a traceback and end with exit status 2.
    """


def require_known(flag: str, name: str, known: Iterable[str]) -> None:
    """Raise a ``UserError`` that proposes the nearest name, unless ``name`` is a known one."""
    known = sorted(known)
    if name in known:
        return
    by_lower = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), by_lower, n=1)
    meant = f" did you mean {by_lower[near[0]]}?" if near else ""
    raise UserError(f"{flag} {name!r} is unknown;{meant} There are {'; '.join(known)}")


def warn(text: str) -> None:
    """Print one warning line where it does not mix with results."""
    print(f"warning: {text}", file=sys.stderr)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether NumPy or PyTorch, on any device, could not have the memory they asked for."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said)
    )


def in_one_line(error: BaseException) -> str | None:
    """Return what to say of an error; None if it is a fault of ours, which needs its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "whoever read the output is gone"
    if is_out_of_memory(error):
        wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))
        asked = f" ({wanted[1]} more were asked for)" if wanted else ""
        return f"out of memory{asked}; use smaller sizes or batches"
    cause: BaseException | None = error
    while cause is not None:  # an import that is interrupted may fail with an error of its own
        if isinstance(cause, KeyboardInterrupt):
            return "interrupted"
        cause = cause.__cause__ or cause.__context__
    return None


def excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Stand in for ``sys.excepthook``: one line and exit status 2 where one line says it all."""
    text = in_one_line(error)
    if text is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    raise SystemExit(2)


def need(package: str, install: str, what: str) -> ModuleType:
    """Return an optional package, imported; raises ``UserError`` that says how it is installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{what} needs the package {install}; pip install {install}") from None
