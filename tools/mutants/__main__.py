"""``python -m mutants``: mutate the model and see whether conformance/ notices."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click

from mmu_tool.campaign import CampaignError, Checkpoint, Workers, cluster, results
from mmu_tool.progress import progress_bar
from mutants.baseline import baseline
from mutants.child import stop
from mutants.judge import Hunt
from mutants.left_out import KINDS
from mutants.mutations import Mutant
from mutants.project import MutantsError, Project
from mutants.sample import Population, draw, population
from mutants.score import Judged, summary


@click.command()
@click.argument("paths", nargs=-1)
@click.option(
    "--sample", default=400, show_default=True, type=click.IntRange(min=1), help="How many mutants."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Another one draws other mutants.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--budget",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds of processor time for a mutant; one not killed within them has survived.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Use the workers of this Dask scheduler.")
@click.option("--root", default=Path(), type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--package", default="mmu_model", show_default=True)
@click.option("--tests", default="conformance", show_default=True)
def main(
    paths: tuple[str, ...],
    sample: int,
    seed: int,
    jobs: int,
    budget: float,
    scheduler: str | None,
    root: Path,
    package: str,
    tests: str,
) -> None:
    """Draw mutants of the package by lot, or of the files that begin with PATHS, and run the tests on each.

    Work that was stopped is taken up again where it stopped. The exit status does not depend on the score.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    project = Project(root.resolve(), package, tests)
    hunt = Hunt(project, project.root / "build", budget)
    try:
        everything = population(project, _chosen(project, paths))
        drawn = list(draw(project, everything, sample, seed))
        click.echo("running all tests once, to see which lines each executes", err=True)
        baseline(project, hunt.folder)
        judged = _judge(hunt, drawn, cluster(scheduler) if scheduler else partial(_workers, jobs))
    except (CampaignError, MutantsError) as error:
        click.echo(str(error) if ": error: " in str(error) else f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"{error.filename or hunt.folder}: error: {error.strerror or error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("stopped; what has been judged is kept, the same command goes on from there", err=True)
        sys.exit(130)
    for line in (*summary(project, judged), *_about(everything, seed)):
        click.echo(line)


def _chosen(project: Project, paths: tuple[str, ...]) -> list[str]:
    chosen = [source for source in project.sources() if not paths or source.startswith(paths)]
    if not chosen:
        raise MutantsError(f"no file of {project.package} begins with {' or '.join(paths) or 'anything'}")
    return chosen


def _judge(hunt: Hunt, drawn: list[Mutant], workers: Workers) -> list[Judged]:
    """Judge those that have not been judged yet."""
    what = {"campaign": "mutants", "files": hunt.project.digest, "budget": hunt.budget}
    what["cosmic-ray"] = version("cosmic-ray")
    done: Checkpoint[str] = Checkpoint(hunt.folder / "mutants.jsonl", what)
    waiting = [mutant.id for mutant in drawn if mutant.id not in done.done]
    with progress_bar("mutants", len(drawn)) as advance_to:
        advance_to(len(drawn) - len(waiting))
        for number, (name, result) in enumerate(
            results(hunt, waiting, workers), len(drawn) - len(waiting) + 1
        ):
            done.add(name, result)
            advance_to(number)
    return [(mutant, done.done[mutant.id]) for mutant in drawn]


def _about(of: Population, seed: int) -> list[str]:
    return [
        f"drawn with seed {seed} from {len(of.places):,} places; left out besides:",
        *(f"  {count:5} {kind}: {KINDS[kind][0]}" for kind, count in of.left_out.most_common()),
    ]


def _workers(jobs: int) -> Executor:
    return ProcessPoolExecutor(jobs, initializer=_be_a_worker)


def _be_a_worker() -> None:
    """Ctrl-C ends the mutant under way; the parent sees to the rest."""
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
