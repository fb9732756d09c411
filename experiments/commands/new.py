"""`fedlab new method NAME`: a method of one's own, begun as a copy of a small one that learns.

The copy is of `discriminant` as it stands in this checkout, on both sides, under the new name, with its row in the
conformance suite and its line in the index: what is generated passes what the original passes. All is checked first,
and written beside its place before anything changes.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path

import click
import yaml

from experiments.commands.words import Words
from fedlab.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
MODEL, TITLE = "discriminant", "Diagonal discriminant analysis"
PAPER = "S. Dudoit et al., JASA 2002, https://doi.org/10.1198/016214502753479248"
FILES = (f"clients/{MODEL}.py", f"strategies/{MODEL}.py", f"conf/methods/{MODEL}.yaml")
SUITE, INDEX = "tests/conformance/methods.py", "experiments/README.md"
ROWS = {SUITE: r'^(?:    Method\(\s*"(\w+)"|\])', INDEX: r"^(?:\| \[`(\w+)`\]|$)"}
"""What a row of each list begins with, and what ends the list."""


@click.group("new", cls=Words)
def command() -> None:
    """Begin a method of your own: fedlab new method NAME."""


@command.command("method")
@click.argument("name")
@click.option("--title", help="What the files and the index call it; without one, the words of NAME.")
@click.option("--paper", metavar="URL", help="Address of its paper.")
def method(name: str, title: str | None, paper: str | None) -> None:
    """Write client, strategy, configuration, conformance row and index line of a method NAME that learns.

    It begins as a small real one in closed form: change its equation and the lines that look like it. An analytic
    learner (fedlab.analytic.Analytic) takes a row in tests/conformance/learners.py as well.
    """
    texts = method_texts(ROOT, name, title, paper)
    if not Path.cwd().is_relative_to(ROOT):
        raise BadInput(f"this is {Path.cwd()}, and fedlab runs from {ROOT}: go there, or pip install -e . here")
    write_together({ROOT / path: text for path, text in texts.items()})
    print(*texts, sep="\n")
    print(f"next: fedlab run methods=[{name}]")
    print(f"      python -m pytest tests/conformance -k {name}")
    print("      make lint, and the line of experiments/README.md says what the method is")


def method_texts(root: Path, name: str, title: str | None = None, paper: str | None = None) -> dict[str, str]:
    """Return what the files of a new method hold, by path; nothing is written.

    Args:
        root: Folder of the checkout.
        name: Name in lower case, as in conf/methods.
        title: Words for people; None takes those of the name.
        paper: Address of its paper; None leaves the line to be filled.

    Raises:
        BadInput: The folder is no checkout, the name is taken or no name, or the title or the paper would break a
            line.
    """
    for path in (*FILES, *ROWS):
        if not (root / path).is_file():
            raise BadInput(
                f"{root} is no checkout to add a method to, for it has no {path}: clone fedlab, and make dev there"
            )
    words = _words(name, title, paper)
    pattern = re.compile("|".join(rf"\b{re.escape(word)}(?!\w)" for word in words))
    link = f"[paper]({paper})" if paper else "–"
    rows = {
        SUITE: f'    Method("{name}"),\n',
        INDEX: f"| [`{name}`](../conf/methods/{name}.yaml) | {words[TITLE]} | {link} |\n",
    }
    texts, taken = {}, []
    for path in FILES:
        text, own = (root / path).read_text(encoding="utf-8"), path.replace(MODEL, name)
        if re.search(rf"^(from|import) .*\b{words[MODEL.capitalize()]}\b", text, re.M):
            raise BadInput(f"{name!r} would name a class as one that {path} imports: take another name")
        taken += [own] if (root / own).exists() else []
        texts[own] = pattern.sub(lambda match: words[match[0]], text)
    for path, row in rows.items():
        text = (root / path).read_text(encoding="utf-8")
        starts = [(match[1], match.start()) for match in re.finditer(ROWS[path], text, re.M)]
        # a blank line or a bracket before the first row ends nothing
        starts = starts[next((i for i, (there, _) in enumerate(starts) if there), len(starts)) :]
        taken += [path] if name in dict(starts) else []
        after = next((start for there, start in starts if there is None or there > name), None)
        if after is None:
            raise BadInput(f"{path} has no list of methods to add {name!r} to: restore it from git")
        texts[path] = text[:after] + row + text[after:]
    if taken:
        raise BadInput(f"{name!r} is in {', '.join(taken)} already: take another name, or remove it there")
    return texts


def _words(name: str, title: str | None, paper: str | None) -> dict[str, str]:
    """Return what becomes of each word of the original."""
    class_name = "".join(word.capitalize() for word in name.split("_"))
    ours = iskeyword(name) or iskeyword(class_name) or hasattr(builtins, class_name) or name == "defaults"
    words = re.fullmatch(r"(?=.{1,40}$)[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    if not words or ours or yaml.safe_load(name) != name:
        raise BadInput(
            f"{name!r} cannot name a method: take words of lower-case letters and digits joined by _, up to 40 "
            "characters and none of Python's, YAML's or Hydra's own, e.g. nearest_mean"
        )
    title = (name.replace("_", " ").capitalize() if title is None else title).strip()
    if not re.fullmatch(r'[^\W_][^"\\`|]{0,59}', title) or not title.isprintable():
        raise BadInput(f'title {title!r} is no line of 1 to 60 characters without " \\ ` |: shorten or reword it')
    if paper is not None and not re.fullmatch(r'https?://[^\s"\\`|()<>]{1,100}', paper):
        raise BadInput(f'paper {paper!r} is no https address of up to 100 characters without () <> " \\ ` |')
    return {TITLE: title, PAPER: paper or "Cite its paper here.", MODEL: name, MODEL.capitalize(): class_name}


def write_together(texts: Mapping[Path, str]) -> None:
    """Write files, all of them or none.

    Raises:
        BadInput: A folder or the disk takes no more; nothing has changed.
    """
    beside = {path: path.with_name(f".{path.name}.new") for path in texts}
    try:
        for path, text in texts.items():
            beside[path].write_text(text, encoding="utf-8")
        for path, written in beside.items():
            written.replace(path)
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}: nothing was written") from error
    finally:
        for written in beside.values():
            written.unlink(missing_ok=True)
