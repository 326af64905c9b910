"""The command `mmu-model`."""

import sys
from typing import NoReturn

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the reference model of x86 paging and of KVM's MMUs."""


@main.command()
@click.argument("file", metavar="[FILE]", default="-")
def walk(file: str) -> None:
    """Answer page walks: a JSON case a line in, a JSON answer a line out.

    Reads standard input if no FILE is given. A line that is no case is answered with an error; the exit
    status then is 2.
    """
    from mmu_model.hardware.walk_filter import answer_lines

    try:
        with click.open_file(file, "rb") as lines:
            bad = answer_lines(lines, sys.stdout)
    except BrokenPipeError:  # whoever reads the answers has had enough; click ends in silence
        raise
    except OSError as error:
        _fail(file, error.strerror or str(error))
    if bad:
        name = "standard input" if file == "-" else file
        _fail(f"{name}:{bad[0]}", f"no case, as its answer says; {len(bad)} such lines in all")


def _fail(where: str, what: str) -> NoReturn:
    click.echo(f"{where}: error: {what}", err=True)
    sys.exit(2)
