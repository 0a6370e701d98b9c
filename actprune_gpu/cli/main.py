"""Entry point: runs a command and turns what users can cause into one line and a status.

Status 0: done; 2: bad input or usage, or a file that cannot be read or written; 130: interrupted.
"""

from __future__ import annotations

import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from ..errors import InputError
from .commands import apply_command, prune_command, train_command
from .env import env_command
from .look import compare_command, explain_command, report_command, stability_command

# Where typer keeps it has changed; a base of this one it has always been.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")

_INTERRUPTED = 130
# What an interrupted command goes on with, in its folder; of several processes each has its own.
_STATES = {"prune": "moments*.safetensors", "train": "weights/last.pt"}
# With which it is finished, but for figures and a report.
_RESULTS = {"prune": "plan.json"}

app = typer.Typer(
    name="actprune-gpu",
    help="Activation-based channel pruning: keep one channel of each kind.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("prune")(prune_command)
app.command("apply")(apply_command)
app.command("train")(train_command)
app.command("report")(report_command)
app.command("explain")(explain_command)
app.command("compare")(compare_command)
app.command("stability")(stability_command)
app.command("env")(env_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str], application: typer.Typer = app) -> int:
    """Run one command of an application and return its status."""
    began = time.time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("once")
            warnings.showwarning = _print_warning  # type: ignore[assignment]  # fewer names
            status = application(args=arguments, standalone_mode=False)
        # An interrupt comes back as a status or as an exception, depending on typer's version.
        return _interrupted(arguments, began) if status == _INTERRUPTED else 0
    except _UsageError as error:
        return _fail(error.format_message())
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments, began)


def _interrupted(arguments: list[str], began: float) -> int:
    command, folder = arguments[0] if arguments else "", _out(arguments)

    def holds(names: dict[str, str], since: float) -> bool:
        files = folder.glob(names[command]) if command in names else ()
        return any(file.stat().st_mtime >= since for file in files)

    kept = ""
    if holds(_RESULTS, began):
        kept = "; the pruned model and its plan are complete"
    elif holds(_STATES, 0.0 if "--resume" in arguments else began):
        kept = "; what was done is kept: go on with --resume"
    typer.echo(f"interrupted{kept}", err=True)
    return _INTERRUPTED


def _out(arguments: list[str]) -> Path:
    """Return the folder for the results, which is given as ``--out F`` or ``--out=F``."""
    for before, argument in pairwise(["", *arguments]):
        name, _, value = argument.partition("=")
        if before == "--out" or (name == "--out" and value):
            return Path(value if name == "--out" else argument)
    return Path()


def _fail(message: str) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return 2


def _print_warning(message: Any, category: type[Warning], *where: Any) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"warning: {message}", err=True)
