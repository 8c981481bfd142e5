"""Every script imports this package first, before what takes long to import."""

import sys

from Utils.errors import excepthook

sys.excepthook = excepthook  # Ctrl-C and a package that is missing are a line then, too
