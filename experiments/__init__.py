"""Every script imports this package first, before what takes long to import."""

import os
import signal
import sys
from pathlib import Path

from Utils.errors import excepthook

ROOT = Path(__file__).resolve().parents[1]


def _end(*_: object) -> None:
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted\n".encode())
    os._exit(2)


sys.excepthook = excepthook  # a package that is missing is a line, too
# Packages that are being imported may take Ctrl-C for a fault of theirs. Once all are, ``launch``
# has it raise KeyboardInterrupt again.
is_script = sys.argv[0] == "-m" or Path(sys.argv[0]).resolve().parent == ROOT
if is_script and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
