"""``python -m tilewright``: the ``tilewright`` command."""

from tilewright.cli import main

main(prog_name="tilewright")
