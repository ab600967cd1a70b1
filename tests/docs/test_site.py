"""The documentation builds without a warning, its links lead somewhere, and its reference holds every public name."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import llmhub

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "notebooks"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

pytest.importorskip("sphinx", reason="needs the docs extra")
pytest.importorskip("myst_nb", reason="needs the docs extra")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(SOURCE), str(out)]
    built = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


class _Page(HTMLParser):
    """Collects the links and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in {"id", "name"}:
                self.anchors.add(value)
            if value and ((tag == "a" and name == "href") or (tag == "img" and name == "src")):
                self.links.append(value)


def _pages(site: Path) -> dict[Path, _Page]:
    pages = {}
    for path in site.rglob("*.html"):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.resolve()] = page
    return pages


def test_local_links_lead_somewhere(site: Path) -> None:
    pages = _pages(site)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or link.startswith("//"):
                continue
            target, anchor = urldefrag(link)
            file = (path.parent / unquote(target)).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            known = pages.get(file)
            if not file.exists() or (anchor and known is not None and unquote(anchor) not in known.anchors):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    assert broken == []


def test_the_reference_holds_every_public_name(site: Path) -> None:
    inventory = pytest.importorskip("sphinx.util.inventory")
    with (site / "objects.inv").open("rb") as file:
        objects = inventory.InventoryFile.load(file, "", lambda base, path: path)
    names = {name for kind, entries in objects.items() if kind.startswith("py:") for name in entries}
    public = [name for name in llmhub.__all__ if not name.startswith("__")]
    modules = [name for name in public if inspect.ismodule(getattr(llmhub, name))]
    assert [name for name in public if name not in modules and f"llmhub.{name}" not in names] == []
    assert [name for name in modules if not (site / "reference" / "pages" / f"llmhub.{name}.html").exists()] == []


def test_every_page_of_the_readme_is_there() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
