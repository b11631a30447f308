"""`bigearth-tf`: the group of all commands, and what happens to errors.

Exit codes: 0 done, 1 failure, 2 wrong usage. A training that a signal stopped with a checkpoint: 75 (EX_TEMPFAIL of
sysexits.h: start it again, with --resume), or 130 after Ctrl-C. TensorFlow is imported in the commands that need it.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys

import click

from bigearth_tf import __version__
from bigearth_tf.cli.options import Group
from bigearth_tf.errors import BigEarthError, RunStoppedError, UnknownNameError

STOPPED, INTERRUPTED = 75, 130

# command -> (module, one-line help shown without importing it)
_COMMANDS = {
    "demo": "Run the whole way once: archive, records, training, scores, bundle, prediction.",
    "archive": "Download an archive, look into it, or write a synthetic one.",
    "records": "Convert an archive to TFRecord shards; prove, describe and show them.",
    "models": "List the models of the zoo and published weights, show a model.",
    "recipes": "List the recipes of published results, show one.",
    "train": "Train a model on records, or go on with a run that was cut off.",
    "tune": "Search for better settings of a recipe.",
    "runs": "List and compare runs.",
    "evaluate": "Score a trained model on a split and write its result card; compare cards.",
    "calibrate": "Fit temperature and thresholds on validation and store them in the model.",
    "export": "Write a SavedModel bundle for TensorFlow Serving.",
    "convert": "Make a model smaller, or one for LiteRT or ONNX, and measure what it loses.",
    "serve": "Serve bundles over REST and gRPC.",
    "predict": "Predict the labels of GeoTIFF patches with a bundle or a server.",
    "retrieve": "Find patches like one: embed, index, search, score, show on a map.",
    "explore": "Look through records, predictions and neighbours in a web page.",
}


class _Commands(Group):
    """Loads a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        return getattr(importlib.import_module(f"bigearth_tf.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="bigearth-tf")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and TensorFlow's own messages.")
def cli(debug: bool) -> None:
    """Classify BigEarthNet patches with TensorFlow: from the raw archive to a served prediction."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.DEBUG if debug else logging.WARNING)
    for noisy in ("rasterio", "matplotlib", "h5py", "tensorflow", "absl", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING if debug else logging.ERROR)
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said by our own errors


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:] if args is None else args
    debug = "--debug" in arguments
    try:
        code = cli.main(args=arguments, prog_name="bigearth-tf", standalone_mode=False)
    except click.exceptions.Abort:
        code = _fail("interrupted")
    except click.ClickException as error:  # wrong usage
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = _fail("interrupted; what was finished is kept")
    except BrokenPipeError:
        code = 1
    except UnknownNameError as error:  # a name that was typed
        if debug:
            raise
        code = _fail(str(error), code=2)
    except RunStoppedError as error:
        code = _fail(str(error), code=INTERRUPTED if error.signal == signal.SIGINT else STOPPED)
    except (BigEarthError, OSError, MemoryError) as error:
        if debug:
            raise
        code = _fail(str(error) or type(error).__name__)
    except Exception as error:
        if debug:
            raise
        code = _fail(
            f"{type(error).__name__}: {error}\nThis looks like a bug; run again with `bigearth-tf --debug ...`"
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 1) -> int:
    click.echo(f"error: {message}", err=True)
    return code
