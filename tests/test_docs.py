"""The Python in the documentation runs as it stands there.

The blocks of a page run in order and share their names, as a reader would type them. A block that
cannot run is announced on the line before it: <!-- no-run: reason -->. Where the reason is that it
needs a GPU, it runs where there is one.
"""

import re
import sys
import textwrap
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:[ ]*<!-- no-run: (?P<no_run>[^\n]+) -->\n+)?"
    r"(?P<indent>[ ]*)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
NEEDS_GPU = "needs a GPU"


def read_blocks(page, *, has_gpu=False):
    """Return the code of a page, each block at the line where it stands in the page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if not match["no_run"] or (has_gpu and match["no_run"] == NEEDS_GPU):
            line = text.count("\n", 0, match.start("code"))
            yield "\n" * line + textwrap.dedent(match["code"])


def needs_gpu(page):
    return f"<!-- no-run: {NEEDS_GPU} -->" in page.read_text(encoding="utf-8")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def run_page(blocks, page, monkeypatch):
    # A module, because dataclasses and pickle look their classes up in one.
    module = types.ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in blocks:
        exec(compile(code, page, "exec"), module.__dict__)


@pytest.mark.parametrize("page", [p for p in PAGES if any(read_blocks(p))], ids=name_of)
def test_page_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(read_blocks(page), page, monkeypatch)


@pytest.mark.cuda
@pytest.mark.undisturbed
@pytest.mark.parametrize("page", [p for p in PAGES if needs_gpu(p)], ids=name_of)
def test_page_code_that_needs_a_gpu_runs_on_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(read_blocks(page, has_gpu=True), page, monkeypatch)


def test_readme_and_tutorials_have_code_that_runs():
    pages = {name_of(page) for page in PAGES if any(read_blocks(page))}
    tutorials = {name_of(page) for page in PAGES if page.parent.name == "tutorial"}
    assert {"README.md", "docs/tutorial/working-with-buffers.md"} | tutorials <= pages
