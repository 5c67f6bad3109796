"""The command line. Each command is thin: it reads files, calls the library, and prints a table or one JSON object."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import click

from lavasnn import __version__
from lavasnn.errors import LavaRunError, LavasnnError

COMMANDS = {
    "demo": "lavasnn.cli.demo",
    "train": "lavasnn.cli.train",
    "export": "lavasnn.cli.deploy",
    "import": "lavasnn.cli.imports",
    "compile": "lavasnn.cli.deploy",
    "run": "lavasnn.cli.execute",
    "verify": "lavasnn.cli.verify",
    "bits": "lavasnn.cli.execute",
    "recall": "lavasnn.cli.recall",
    "layers": "lavasnn.cli.layers",
    "cost": "lavasnn.cli.cost",
    "doctor": "lavasnn.cli.doctor",
}


class _Lazy(click.Group):
    """Loads a command's module when it is asked for, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = __import__(COMMANDS[cmd_name], fromlist=["COMMANDS"])
        return module.COMMANDS[cmd_name]


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lavasnn")
def cli() -> None:
    """Train spiking networks with local rules, compile them for Loihi 2, prove them on Lava's simulator.

    \b
    lavasnn demo                                   everything, on small images, in half a minute
    lavasnn train sim_runs/mnist-diffpc-s.toml     train
    lavasnn compile runs/m.safetensors -o p        to a Loihi 2 program
    lavasnn verify p --data mnist --samples 50     torch = exact = Lava, spike for spike
    lavasnn bits p --data mnist                    what its neurons exchange
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: 0 done, 1 a check failed, 2 bad input or usage, 130 interrupted; one line for every error."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(guarded(lambda: _invoke(given)))


def _invoke(arguments: list[str]) -> object:
    """What click's own main does, without its answers to Ctrl-C and to closed pipes."""
    try:
        with cli.make_context("lavasnn", arguments) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code


def guarded(action: Callable[[], object]) -> int:
    """Exit status of an action; what goes wrong is told in one line on stderr."""
    try:
        result = action()
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except LavaRunError as error:
        if error.details:
            click.echo(error.details.rstrip(), err=True)
        return _fail(str(error), error.exit_code)
    except LavasnnError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        discard_output()
        return 0
    except OSError as error:
        discard_output()
        return _fail(f"{error.filename or 'cannot write the output'}: {error.strerror or error}", 2)
    except (KeyboardInterrupt, click.Abort) as error:
        return _fail(str(error) or "interrupted", 130)
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            return _fail("out of memory; a smaller network or --batch, or fewer --samples, need less", 2)
        if os.environ.get("LAVASNN_DEBUG"):
            raise
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f" at {os.path.basename(where.tb_frame.f_code.co_filename)}:{where.tb_lineno}" if where is not None else ""
        return _fail(f"unexpected {type(error).__name__}{place}: {error}; LAVASNN_DEBUG=1 shows where", 2)


def discard_output() -> None:
    """Send what is still to be written on stdout nowhere, so that Python's own flush at exit meets no closed pipe."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stdout without a descriptor needs none of this
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    click.echo("error: " + " ".join(message.split()), err=True)
    return status
