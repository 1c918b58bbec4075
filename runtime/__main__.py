"""``python -m tilewright``: the ``tilewright`` command.

Python's ``-m`` puts the current folder before all others in the path, where any file may have the name of a module that
we import; as for the command itself, it does not belong there.
"""

import os
import sys


def _leave_here() -> None:
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here):
        del sys.path[0]


_leave_here()

from tilewright.cli import main  # noqa: E402

main(prog_name="tilewright")
