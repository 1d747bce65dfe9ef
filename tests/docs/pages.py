"""The pages of this repository, and what a reader would copy from them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "charts/modelfleet/README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
PROGRAMS = ("make", "kubectl", "modelfleet", "helm", "python", "podman", "curl", "eval", "export")
ENDS = frozenset({"|", "||", "&", "&&", ";"})


class Command(NamedTuple):
    """One simple command, without comment and what it is piped to.

    Attributes:
        page: Where it stands.
        words: Its words.
        mentioned: Whether it is in running text, where arguments may be left out.
    """

    page: str
    words: tuple[str, ...]
    mentioned: bool


def name(page: Path) -> str:
    """Return the page's path in the checkout."""
    return str(page.relative_to(CHECKOUT))


def text(page: Path) -> str:
    """Return the page."""
    return page.read_text(encoding="utf-8")


def blocks(markdown: str) -> list[str]:
    """Return the indented code blocks; what a heredoc holds is part of its block."""
    found = re.findall(r"(?:^(?:    .*| *)\n)+", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip("\n") + "\n" for block in found if block.strip()]


def heredocs(markdown: str) -> list[str]:
    """Return what the commands of a page read from heredocs."""
    return [body for block in blocks(markdown) for body in re.findall(r"<<EOF\n(.*?)^EOF$", block, re.M | re.S)]


def fenced(markdown: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.M | re.S)


def script(block: str) -> list[str]:
    """Return the command lines of a block, continued lines joined, heredocs left out.

    In a block with prompts only what follows one is typed; in one without, lines that begin with a program.
    """
    plain = re.sub(r"<<EOF\n.*?^EOF$", "", block, flags=re.M | re.S)
    plain = re.sub(r" *\\\n *", " ", plain)
    lines = plain.splitlines()
    if any(line.startswith("$ ") for line in lines):
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if re.match(rf"([A-Z]+=\S+ )?(\.venv/bin/)?({'|'.join(PROGRAMS)}) ", line)]


def commands(page: Path) -> Iterator[Command]:
    """Yield every command of a page, of its code blocks and of its running text."""
    markdown = text(page)
    lines = [(line, False) for block in blocks(markdown) for line in script(block)]
    mentioned = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [a-z-][^`]*)`", re.sub(r"\n", " ", markdown))
    for line, inline in (*lines, *((line, True) for line in mentioned)):
        if (line.count('"') + line.count("'")) % 2:
            continue  # goes on beyond its line: JSON for curl
        words: list[str] = []
        for word in (*_words(line), ";"):
            if word not in ENDS:
                words.append(word)
            elif words:
                yield Command(name(page), tuple(words), inline)
                words = []


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words = [word.removeprefix(".venv/bin/") for word in lexer]
    return words[1:] if words and re.fullmatch(r"[A-Z]+=\S+", words[0]) else words
