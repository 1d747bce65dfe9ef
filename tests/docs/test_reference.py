"""docs/reference is what the CRDs and the commands say, and says all of it."""

from collections.abc import Iterator
from typing import Any

import yaml

from docs.write_reference import REFERENCE, generated
from tests.docs.pages import CHECKOUT


def test_the_pages_are_up_to_date() -> None:
    pages = generated()
    assert set(REFERENCE.glob("*")) == set(pages)
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make reference`"


def described(node: Any) -> Iterator[tuple[str, str]]:
    """Yield name and description of every field, however deep."""
    if isinstance(node, dict):
        yield from ((name, field["description"]) for name, field in node.get("properties", {}).items())
        for inner in node.values():
            yield from described(inner)


def test_every_field_of_a_kind_is_told_with_its_description() -> None:
    for file in (CHECKOUT / "crds").glob("*.yaml"):
        manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
        schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        page = (REFERENCE / f"{manifest['spec']['names']['singular']}.md").read_text(encoding="utf-8")
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        found = [*described(schema["spec"]), *described(schema.get("status"))]
        assert len(found) > 5
        for name, description in found:
            assert any(f"{name}` |" in row and description.replace("|", "\\|") in row for row in rows), name
