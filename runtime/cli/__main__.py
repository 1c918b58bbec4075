"""``python -m tilewright.cli``."""

from tilewright.cli import main

main(prog_name="tilewright")
