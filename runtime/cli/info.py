"""``tilewright info``: what is installed and what is used."""

from __future__ import annotations

import click

from tilewright.cli.common import Json, as_json, emit, one_sentence

__all__ = ["info"]


@click.command()
@as_json
def info(as_json: Json) -> None:
    """Say what is installed, which BLAS is used and which kernels, engines and policies there are."""
    from tilewright.cli import tables
    from tilewright.studies import inventory

    with one_sentence():
        found = inventory.inventory()
    emit(found, as_json, lambda: tables.show_inventory(found))
