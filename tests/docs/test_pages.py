"""What the pages say is there: links, commands, options, objects, kinds, targets, fields of the chart, files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.main import get_command

from modelfleet.api.conditions import Limit
from modelfleet.api.engine import Engine
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import API_VERSION
from modelfleet.cli.main import app
from modelfleet.engines.dialects import DIALECTS
from sandbox.fleet import CHART
from tests.docs.pages import CHECKOUT, PAGES, Command, blocks, commands, fenced, heredocs, name, text

COMMANDS = [command for page in PAGES for command in commands(page)]
OBJECTS = [
    pytest.param(document, id=f"{name(page)}-{document['kind']}-{number}")
    for page in PAGES
    for number, document in enumerate(
        document
        for part in (*fenced(text(page), "yaml"), *heredocs(text(page)))
        for document in yaml.safe_load_all(part)
        if isinstance(document, dict) and document.get("apiVersion") == API_VERSION
    )
]
OTHERS_KINDS = {"hpa", "scaledobject"}
BUILT_IN = {
    *("pod", "pods", "node", "nodes", "events", "lease", "cm", "crd", "namespace", "ns", "endpointslices"),
    *("svc", "service", "deploy", "deployment", "resourcequota", "serviceaccount", "secret"),
}
VERBS = {"get", "describe", "delete", "wait", "annotate", "patch", "port-forward", "logs", "exec", "scale", "explain"}
TAKE_A_NAME = {"logs", "exec"}
KUBECTL_VALUES = {"-n", "--namespace", "-o", "--output", "-f", "--filename", "-l", "--field-selector", "-L", "-p", "-c"}


def ids(found: list[Command]) -> list[str]:
    return [f"{command.page}: {' '.join(command.words)}" for command in found]


def of(*program: str) -> list[Command]:
    """Return the commands that begin so, without what they begin with."""
    size = len(program)
    found = [each for each in COMMANDS if each.words[:size] == program]
    return [each._replace(words=each.words[size:]) for each in found if each.words[size:] not in {(), ("COMMAND",)}]


OURS = [*of("modelfleet"), *of("kubectl", "modelfleet")]
MODULES = of("python", "-m")
MAKES = of("make")
HELMS = [each for each in of("helm") if "--set" in each.words or "--set-json" in each.words]
KUBECTLS = [each for each in of("kubectl") if each.words[0] != "modelfleet"]


def test_nothing_is_overlooked() -> None:
    """The pages have hundreds of commands: a reader of pages that finds none would prove nothing."""
    assert len(OURS) > 40
    assert len(KUBECTLS) > 70
    assert len(MAKES) > 10
    assert len(HELMS) > 5
    assert len(MODULES) > 5
    assert len(OBJECTS) > 6
    assert len(LINKS) > 100


# --- links ---------------------------------------------------------------------------------------

LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text(page)))
    if not target.startswith("http")
]


def anchors(markdown: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{name(page)}-{target}" for page, target in LINKS])
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    assert not anchor or anchor in anchors(text(file))


def test_every_page_is_found_from_the_index() -> None:
    index = CHECKOUT / "docs" / "README.md"
    linked = {(page.parent / target.partition("#")[0]).resolve() for page, target in LINKS if page == index}
    board = CHECKOUT / "docs" / "dashboards.md"
    linked |= {(page.parent / target.partition("#")[0]).resolve() for page, target in LINKS if page == board}
    assert {page for page in PAGES[2:] if page != index} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    roots = "operator|tests|charts|docs|sandbox|bench|crds|examples"
    for path in re.findall(rf"`((?:{roots})/[\w./*-]+)`", text(page)):
        assert any(CHECKOUT.glob(path.rstrip("/"))), path


# --- commands ------------------------------------------------------------------------------------


def parse(typer: Typer, command: Command) -> None:
    """Parse a command line as the program would, and run nothing.

    What is but mentioned may leave out its arguments: "`modelfleet explain` shows".
    """
    program: Any = get_command(typer)
    words = list(command.words)
    if hasattr(program, "commands"):
        first = words.pop(0)
        if first.startswith("-"):
            context = program.make_context("", [], resilient_parsing=True)
            assert first in {option for each in program.get_params(context) for option in each.opts}
            return
        assert first in program.commands
        program = program.commands[first]
    if words or not command.mentioned:
        program.make_context("", words)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the files that commands name."""
    for each in ("requests.csv", "replica.yaml", "fleet.yaml", "new-tenants.yaml", "kubeconfig"):
        (tmp_path / each).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", OURS, ids=ids(OURS))
@pytest.mark.usefixtures("files")
def test_a_command_of_ours_can_be_parsed(command: Command) -> None:
    parse(app, command)


@pytest.mark.parametrize("command", MODULES, ids=ids(MODULES))
@pytest.mark.usefixtures("files")
def test_a_module_is_there_and_has_these_options(command: Command) -> None:
    module, *words = command.words
    program = importlib.import_module(module)
    if hasattr(program, "__path__"):
        program = importlib.import_module(f"{module}.__main__")
    typer = getattr(program, "app", None) or Typer()
    if not typer.registered_commands:
        typer.command()(program.main)
    parse(typer, command._replace(words=tuple(word.replace("$KUBECONFIG", "kubeconfig") for word in words)))


@pytest.mark.parametrize("command", MAKES, ids=ids(MAKES))
def test_a_target_is_one(command: Command) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {word for word in command.words if not re.match("-|[A-Z]+=", word)} <= targets


@pytest.mark.parametrize("command", HELMS, ids=ids(HELMS))
def test_a_value_is_one_of_the_chart(command: Command) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for flag, setting in zip(command.words, command.words[1:], strict=False):
        if flag not in {"--set", "--set-json"} or setting == "replcas=3":
            continue
        for assignment in re.split(r",(?![^{]*\})", setting):
            node = values
            for part in assignment.partition("=")[0].split("."):
                assert isinstance(node, dict)
                if not node and part in {"release"}:
                    break  # a map of the user's own
                assert part in node, setting
                node = node[part]


def resources(words: tuple[str, ...]) -> Iterator[str]:
    """Yield the kinds that a kubectl command names."""
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in KUBECTL_VALUES:
            next(rest, None)
        elif not word.startswith("-"):
            plain.append(word)
    if len(plain) > 1 and plain[0] in VERBS:
        kinds = [kind for kind in plain[1].split(",") if "/" in kind or plain[0] not in TAKE_A_NAME]
        yield from (re.split(r"[/.]", kind)[0] for kind in kinds)


@pytest.mark.parametrize("command", KUBECTLS, ids=ids(KUBECTLS))
def test_a_kind_is_one(command: Command) -> None:
    ours = {word for kind in KINDS for word in (kind.plural, kind.kind.lower(), *kind.short_names)}
    named = {kind for kind in resources(command.words) if not kind.isupper()}
    assert named <= ours | BUILT_IN | OTHERS_KINDS


# --- objects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", OBJECTS)
def test_an_object_is_valid(document: dict[str, Any]) -> None:
    (kind,) = (kind for kind in KINDS if kind.kind == document["kind"])
    read = kind.spec.model_validate(document["spec"])
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == document["spec"]


# --- tables --------------------------------------------------------------------------------------


def test_every_limit_is_explained() -> None:
    page = text(CHECKOUT / "docs" / "howto" / "why-is-it-not-scaling.md")
    told = {word for row in re.findall(r"^\| (`[A-Z].+?) \|", page, re.M) for word in re.findall(r"`(\w+)`", row)}
    assert told == {limit.value for limit in Limit if limit.value}


def test_the_engines_are_as_the_dialects_have_them() -> None:
    page = text(CHECKOUT / "docs" / "howto" / "other-engines.md")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) `(\S+)` \| `(\S+)` \| `(\S+)` \| `(\S+)` \| `(\S+)`", page, re.M)
    assert {row[0] for row in rows} == {engine.value for engine in Engine}
    for engine, *told in rows:
        dialect = DIALECTS[Engine(engine)]
        assert told == [
            str(dialect.port),
            dialect.metrics_path,
            dialect.queued_requests.names[0],
            dialect.running_requests.names[0],
            dialect.output_tokens.names[0],
            dialect.inter_token_seconds_sum.names[0].removesuffix("_sum"),
        ]


def test_the_quick_start_is_short_and_has_one_picture() -> None:
    page = text(CHECKOUT / "docs" / "quickstart.md")
    assert len(page.split()) < 1200
    assert page.count("](images/") == 1
    assert len(blocks(page)) > 10
