"""The one error that is meant for the person at the keyboard."""

from collections.abc import Iterable
from difflib import get_close_matches


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
