"""The command line: ``mmuspec``. Each command reads, asks one module, prints; imports are made when used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmuspec.errors import Problem
from mmuspec.home import spec_directory

if TYPE_CHECKING:
    from mmuspec.document import Document
    from mmuspec.drift import Drift
    from mmuspec.results import Results
    from mmuspec.spec import Spec

FIRST_RELEASE = "6.12"
"""What a new spec is made from when nobody says."""

FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print it.",
)
TREE = click.option(
    "--tree",
    type=click.Path(path_type=Path),
    help="A kernel tree, asked after the cache and the installed package.",
)
RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    multiple=True,
    help="What a run of the tests showed; several shards are merged (default: build/results.json).",
)
REV = click.option("--rev", help="A revision: read from the tree and from nowhere else.")


class _Commands(click.Group):
    """A group whose commands end with exit status 2 and one line on standard error when the input is bad."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Problem as problem:
            click.echo(str(problem), err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("mmuspec: error: interrupted; nothing was changed", err=True)
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--spec",
    "spec",
    type=click.Path(path_type=Path),
    help="The spec folder (default: spec/ of the repository).",
)
@click.version_option(package_name="kvm-mmu-conformance")
@click.pass_context
def main(ctx: click.Context, spec: Path | None) -> None:
    """Is the kernel's documentation of KVM's x86 MMU true?

    DOC is a path (.rst, .txt, either gzipped) or a kernel release (6.12). Left out, it is the release that
    the spec was made from.
    """
    ctx.obj = spec or spec_directory(Path.cwd())


@main.command()
@click.argument("release", required=False)
@TREE
@REV
@click.pass_obj
def fetch(directory: Path, release: str | None, tree: Path | None, rev: str | None) -> None:
    """Find the document of RELEASE and print the path of the cached copy."""
    from mmuspec.fetch import fetch as find

    found = find(release or _release(directory), tree=tree, rev=rev, progress=_note)
    _note(f"{found.origin}: {found.path}, sha256 {found.sha256}")
    if not found.cached.is_file():
        raise Problem(
            "the document was found but could not be kept here; see the warning above", found.cached
        )
    click.echo(found.cached)


@main.command()
@click.argument("docs", metavar="[DOC...]", nargs=-1)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file, or the folder for several documents."
)
@TREE
@REV
@click.pass_obj
def extract(
    directory: Path, docs: tuple[str, ...], output: Path | None, tree: Path | None, rev: str | None
) -> None:
    """Print the statements of DOC as YAML, with their text.

    Several documents, or a folder, make one YAML file each under the output folder.
    """
    from mmuspec import bulk

    chosen = docs or (_release(directory),)
    if len(chosen) > 1 or Path(chosen[0]).is_dir():
        if output is None:
            raise Problem("several documents need a folder to be written to; name it with -o")
        sys.exit(bulk.extract_all(chosen, output, directory))
    text = bulk.extract_one(chosen[0], directory, tree, rev)
    if output is None:
        click.echo(text, nl=False)
    else:
        from mmuspec import folder

        folder.write(output, text)


@main.command()
@click.argument("doc", required=False)
@TREE
@REV
@click.pass_obj
def regen(directory: Path, doc: str | None, tree: Path | None, rev: str | None) -> None:
    """Bring the spec up to date with DOC; every id, claim and verdict is kept."""
    from mmuspec.regen import regenerate

    new = not any(directory.glob("*.yaml"))
    for line in regenerate(directory, doc or (FIRST_RELEASE if new else _release(directory)), tree, rev):
        click.echo(line)


@main.command()
@click.argument("doc", required=False)
@FORMAT
@TREE
@REV
@click.pass_obj
def check(directory: Path, doc: str | None, form: str, tree: Path | None, rev: str | None) -> None:
    """Is the spec the spec of DOC? Exit status 0: in step, 1: drift, 2: cannot tell. Writes nothing."""
    from mmuspec.cache import Cache
    from mmuspec.drift import of_spec
    from mmuspec.reading import load_spec_once, read_revision, statements_at_hand

    spec = load_spec_once(directory)
    document = read_revision(doc or spec.source.release or spec.source.path, tree, rev)
    cache = Cache()
    same = document.source.sha256 == spec.source.sha256
    texts = {} if same else statements_at_hand(cache, spec.source.sha256)
    drift = of_spec(spec, document, cache.words_of, texts)
    if form == "json":
        click.echo(json.dumps(drift.as_json(), indent=1))
    else:
        _print_drift(drift, f"{directory}: in step with {_named(document)}")
        if drift.wordless:
            _note(_not_at_hand(spec.source.release, spec.source.sha256))
    sys.exit(1 if drift.blocks else 0)


@main.command()
@click.argument("old")
@click.argument("new")
@FORMAT
@TREE
@click.pass_obj
def diff(directory: Path, old: str, new: str, form: str, tree: Path | None) -> None:
    """Compare two documents, statement by statement. Exit status 0: the same, 1: they differ."""
    from mmuspec.drift import of_documents
    from mmuspec.reading import load_spec_once, read_document

    before, after = read_document(old, tree), read_document(new, tree)
    known = load_spec_once(directory) if any(directory.glob("*.yaml")) else None
    drift = of_documents(before, after, known)
    if form == "json":
        click.echo(json.dumps(drift.as_json(), indent=1))
    else:
        _print_drift(drift, f"{_named(before)} and {_named(after)} state the same")
    sys.exit(1 if drift else 0)


@main.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("build/report"),
    show_default=True,
    help="The folder to write to.",
)
@RESULTS
@click.option("--doc", metavar="DOC", help="Show what is known beside the words of another document.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="An earlier report.json: say what changed since, statement by statement.",
)
@click.option(
    "--source-url",
    metavar="URL",
    help="Where links to tests lead: https://.../{path}#L{line} (default: the checkout).",
)
@click.pass_obj
def report(
    directory: Path,
    output: Path,
    results: tuple[Path, ...],
    doc: str | None,
    baseline: Path | None,
    source_url: str | None,
) -> None:
    """Write the report.

    index.html to read, report.md for a pull request, report.txt for a mail, report.json for programs (`mmuspec
    schema report`), lcov.info for viewers of coverage, a badge.
    """
    from mmuspec.report import build, write
    from mmuspec.report.aside import aside
    from mmuspec.report.links import Links

    links = Links(directory.parent, output, source_url)
    spec, ran, document = _known(directory, results, doc)
    known = build(spec, ran, document, aside=aside(spec, ran, directory, baseline))
    click.echo(write(known, output, links))


@main.command()
@click.argument("statement_id", metavar="ID")
@RESULTS
@click.pass_obj
def explain(directory: Path, statement_id: str, results: tuple[Path, ...]) -> None:
    """Print what is known of a statement: text, claim, verdict, tests, violations, evidence."""
    from mmuspec.explain import explain as told

    click.echo(told(*_known(directory, results), statement_id), nl=False)


@main.command()
@click.argument("patches", metavar="PATCH...", nargs=-1, required=True)
@click.option("--base", metavar="DOC", help="The document that the patches are for.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "md"]),
    default="text",
    show_default=True,
    help="How to print it: a reply to a mail, data, or Markdown for a pull request.",
)
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    help="A kernel tree: for ranges A..B, and to look up the files and names that new text speaks of.",
)
@RESULTS
@click.pass_obj
def review(
    directory: Path,
    patches: tuple[str, ...],
    base: str | None,
    form: str,
    tree: Path | None,
    results: tuple[Path, ...],
) -> None:
    """Review patches of the document: what they do to its statements, and what of it is known to be untrue.

    PATCH is a mail, an mbox, the output of git format-patch, a diff, a thread saved from a web archive, - for
    standard input, or, with --tree, a range of commits A..B. Exit status 0: nothing to say, 1: findings.
    """
    from mmuspec.reading import load_spec_once
    from mmuspec.review.command import run

    spec = load_spec_once(directory) if any(directory.glob("*.yaml")) else None
    sys.exit(run(spec, directory.parent, patches, base, tree, results, form))


@main.command()
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    required=True,
    help="A kernel tree, a tar of one, or a linux-source package.",
)
@click.option("--doc", metavar="DOC", help="The document (default: the one in the sources).")
@click.option(
    "--rev", help="A revision of the tree, or A..B: then also what changed since the text last did."
)
@FORMAT
@click.pass_obj
def audit(directory: Path, source: Path, doc: str | None, rev: str | None, form: str) -> None:
    """Hold the fields that DOC describes against the members of the C structs.

    Exit status 0: nothing to say, 1: findings.
    """
    from mmuspec.audit.command import run
    from mmuspec.reading import load_spec_once

    spec = load_spec_once(directory) if any(directory.glob("*.yaml")) else None
    sys.exit(run(spec, source, doc, rev, form))


@main.command()
@click.argument("name", type=click.Choice(["report", "results"]))
def schema(name: str) -> None:
    """Print the JSON Schema of report.json or of results.json."""
    import json

    from mmuspec import schema as schemas

    click.echo(json.dumps(schemas.schema(name), indent=1))


def _known(
    directory: Path, paths: tuple[Path, ...], doc: str | None = None
) -> tuple[Spec, Results | None, Document | None]:
    """The spec, the results of the last run, the document: without the last two there is still something to say."""
    from mmuspec import results
    from mmuspec.reading import load_spec_once, read_document

    spec = load_spec_once(directory)
    default = directory.parent / results.DEFAULT
    chosen = paths or ((default,) if default.exists() else ())
    ran = results.load(chosen) if chosen else None
    if doc is not None:
        return spec, ran, read_document(doc)
    try:
        document = read_document(spec.source.release or spec.source.path)
    except Problem as problem:
        _note(f"mmuspec: note: no document at hand, so its text is not shown ({problem.message})")
        document = None
    return spec, ran, document


def _print_drift(drift: Drift, nothing: str) -> None:
    for line in drift.lines():
        click.echo(line)
    if not drift:
        click.echo(nothing)
    else:
        counts = ("added", "removed", "moved", "changed")
        click.echo(", ".join(f"{len(getattr(drift, each))} {each}" for each in counts))


def _named(document: Document) -> str:
    source = document.source
    return f"{source.path} of {source.release}" if source.release else source.path


def _release(directory: Path) -> str:
    """What DOC means when it is left out."""
    from mmuspec.reading import load_spec_once

    source = load_spec_once(directory).source
    return source.release or source.path


def _not_at_hand(release: str, sha256: str) -> str:
    return (
        f"mmuspec: note: the document that the spec was made from (sha256 {sha256[:16]}) is not at hand, so "
        f"whether a removed statement is an added one reworded cannot be told; run `mmuspec fetch {release}`"
    )


def _note(text: str) -> None:
    click.echo(text, err=True)
