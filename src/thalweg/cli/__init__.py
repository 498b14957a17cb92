"""The command line: parse, call, print, exit status. Errors a user can mend are one line and exit status 2.

A command is a function with annotated parameters in a file of its own here, and an entry in `COMMANDS`; a group of
commands is an entry in `GROUPS`. Everything heavy is imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys

import typer

from thalweg.cli import data, demo, dial, export, regime, relax_evaluate, show, study, train_tune, verify
from thalweg.console import complain, show_plain_warnings
from thalweg.errors import ThalwegError

COMMANDS = (
    demo.demo,
    train_tune.train,
    train_tune.tune,
    relax_evaluate.relax,
    relax_evaluate.evaluate,
    regime.map,
    dial.dial,
    verify.verify,
    show.show,
    export.export,
)
"""Every command, in the order of the help page; its name is the function's."""

GROUPS = {"data": data.group, "study": study.group}
"""Commands of two words, by their first."""

app = typer.Typer(
    name="thalweg",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Train interatomic potentials through the structural relaxation they will be used for.

    Example: thalweg demo
    """


for _command in COMMANDS:
    app.command()(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line; errors a user can mend become one line on standard error and exit status 2."""
    from thalweg.allocator import keep_freed_memory

    keep_freed_memory()
    # before torch is imported: on small cells two threads were seen 50 times slower than one beside another job
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    show_plain_warnings()
    try:
        app(prog_name="thalweg")
    except ThalwegError as error:
        complain(error)
        sys.exit(2)
    except OSError as error:  # whatever no reader or writer has put into words
        complain(f"{error.filename or 'the system refused'}: {error.strerror or error}: mend that and run again")
        sys.exit(2)
    except KeyboardInterrupt:
        complain(_INTERRUPTED)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:  # typer turns an interrupt into this status, without a word
            complain(_INTERRUPTED)
        raise


_INTERRUPTED = (
    "interrupted; the same command again takes train, tune, demo and study on from where they were, "
    "other commands have written nothing"
)
