"""The one error that is meant for the person at the keyboard."""


class UserError(Exception):
    """What a user can get wrong; its text is one line: what, where (``file:line``), what to do.

    Scripts print it without a traceback and end with exit status 2.
    """
