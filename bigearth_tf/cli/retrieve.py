"""`bigearth-tf retrieve`: the group; its commands stand in files of their own."""

from __future__ import annotations

import click

from bigearth_tf.cli import options
from bigearth_tf.cli.retrieve_embed import embed
from bigearth_tf.cli.retrieve_evaluate import evaluate
from bigearth_tf.cli.retrieve_index import add, index, info, remove
from bigearth_tf.cli.retrieve_look import map_, project
from bigearth_tf.cli.retrieve_search import search


@click.group(cls=options.Group)
def retrieve() -> None:
    """Find patches like one: embed, index, search, score, show on a map."""


for _command in (embed, index, info, add, remove, search, evaluate, project):
    retrieve.add_command(_command)
retrieve.add_command(map_, "map")
