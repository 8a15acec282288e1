"""The documents against the code: the picture of the house, the tree of its modules, and every path that is named."""

import ast
import re
import tomllib
from itertools import product
from pathlib import Path

import pytest

import ms_assets

PACKAGE = Path(ms_assets.__file__).parent
ROOT = PACKAGE.parent
DESIGN = (ROOT / "docs" / "design.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
ROOMS = ["raw", "splits", "graph", "training", "retrieval", "reranking", "evaluation"]
GROUND = {module for layer in LAYERS[LAYERS.index(ROOMS[0]) + 1 :] for module in layer.split(" : ")}


def package_of(parts):
    """Name of the box in the picture that a module, given by the parts of its path, belongs to."""
    first = parts[0] if parts else "__init__"
    if first in GROUND:
        return "ground floor"
    return "/".join(parts[:2]) if first == "defs" else first


def imported(module):
    """Paths below the package of all modules that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[1:] for name in node.names if name.name.startswith("ms_assets"))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ms_assets":
            folder = node.module.split(".")[1:]
            for name in node.names:
                path = PACKAGE.joinpath(*folder, name.name)
                yield [*folder, name.name] if path.is_dir() or path.with_suffix(".py").exists() else folder


def imports_between_packages():
    found = set()
    for module in PACKAGE.rglob("*.py"):
        here = package_of([part for part in module.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"])
        found |= {(here, package_of(parts)) for parts in imported(module)}
    return {(one, other) for one, other in found if one != other}


def arrows_of_the_picture():
    """Arrows of the Mermaid picture as pairs of packages; one of a frame is one of each package in it."""
    picture = re.search(r"```mermaid\n(.*?)```", DESIGN, re.DOTALL)[1]
    labels = dict(re.findall(r'(\w+)\["([^":]+)', picture))
    unlabelled = re.sub(r'\["[^"]*"\]', "", picture)
    frames = dict(re.findall(r"subgraph (\w+)\n(.*?)\n    end", unlabelled, re.DOTALL))

    def packages(name):
        members = set(re.findall(r"\w+", frames[name])) if name in frames else {name}
        return {labels.get(member, member) for member in members}

    arrows = re.findall(r"(\w+) --> (\w+)", unlabelled)
    return {pair for one, other in arrows for pair in product(packages(one), packages(other))}


def test_the_picture_of_the_house_shows_every_import_between_packages_and_no_other():
    assert arrows_of_the_picture() == imports_between_packages()


def test_the_picture_names_the_ground_floor():
    named = re.search(r'"ground floor: ([^"]+)"', DESIGN)[1]
    assert set(named.split(", ")) == GROUND


def tree():
    """Paths in the first block of the design, the tree of the package."""
    lines = re.search(r"```\n(ms_assets/.*?)```", DESIGN, re.DOTALL)[1].splitlines()[1:]
    folders = []
    for line in lines:
        if found := re.match(r"((?:[│ ]   )*)[├└]── (\S+)", line):
            depth = len(found[1]) // 4
            folders[depth:] = [found[2].strip("/")]
            yield "/".join(folders)


def test_the_tree_of_the_house_is_that_of_the_package():
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("*.py")}
    platform = {f"defs/platform/{path.name}" for path in (PACKAGE / "defs/platform").glob("[a-z]*.py")}
    others = {"defs", "defs/automation.py", "defs/<room>", "defs/platform", *ROOMS}
    assert set(tree()) == modules | platform | others


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_is_there(document):
    named = set(re.findall(r"`([\w/]+\.py)`", document.read_text()))
    missing = [name for name in named if not any(path.match(name) for path in ROOT.glob("ms_assets*/**/*.py"))]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_is_there(document):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    missing = [link for link in links if not link.startswith("http") and not (document.parent / link).exists()]
    assert missing == []


def test_the_version_stands_in_one_place_and_the_changelog_begins_with_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ms_assets.__version__"}
    assert re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == ms_assets.__version__


OF_OTHER_PACKAGES = {
    "Registered model alias champion not found",
    "ModuleNotFoundError: No module named 'ms_assets'",
    "Run `dagster instance migrate`",
    "Detected out-of-date database schema",
    "Version table 'alembic_version' has more than one head present",
    "address already in use",
}


def spoken():
    """Every text in the package, with … where a value is filled in, and every function's name."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.FunctionDef):
                yield node.name


def test_every_message_that_operations_explains_is_one_of_the_package():
    sections = re.findall(
        r"## Troubleshooting.*?(?=\n## |\Z)", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL
    )
    cells = re.findall(r"^\| (.*?) \| ", "".join(sections), re.MULTILINE)
    messages = {message for cell in cells for message in re.findall(r"`` ?(.+?) ?``|`([^`]+)`", cell)}
    told = {one or other for one, other in messages} - OF_OTHER_PACKAGES
    texts = "\n".join(spoken())
    parts = {(message, part.strip(" :;/().")) for message in told for part in message.split("…")}
    assert len(told) > 25
    assert [message for message, part in parts if part not in texts] == []
