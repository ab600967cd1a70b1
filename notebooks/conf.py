"""Sphinx configuration of the documentation. Build it with ``sphinx-build -W -b html notebooks notebooks/_build``."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import llmhub

project = "llmhub"
author = "The llmhub developers"
copyright = "The llmhub developers"  # noqa: A001 - Sphinx's name
version = release = llmhub.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "demo"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
templates_path = ["_templates"]
root_doc = "index"
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["*.ipynb"]  # executed by execute.py, which keeps their outputs
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = "llmhub"
html_static_path = ["_static"]
html_css_files = ["llmhub.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "llmhub"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"index": [], "getting_started": [], "faq": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


# The reference is written from the public names, so that none can be missing.

REFERENCE = Path(__file__).parent / "reference" / "pages"
GROUPS = {
    "Calls": ("llmhub.api",),
    "Frames": ("llmhub.notebook", "llmhub.tables"),
    "Hub, limits and routing": ("llmhub.hub", "llmhub.engine", "llmhub.core.provider", "llmhub.plugins"),
    "Caches": ("llmhub.cache",),
}
MODULES = {
    f"llmhub.{name}": f"llmhub.{name}"
    for name in ("evals", "datasets", "distributed", "bench", "plots", "sim", "types", "errors", "plugins")
} | {
    "llmhub.scorers": "llmhub.evals.scorers",
    "llmhub.tasks": "llmhub.evals.tasks",
    "llmhub.credentials": "llmhub.security.credentials",
    "llmhub.logging": "llmhub.observability.logging",
    "llmhub.metrics": "llmhub.observability.metrics",
    "llmhub.tracing": "llmhub.observability.tracing",
}
ACCESSORS = ("FrameAccessor", "SeriesAccessor")


def page(title: str, module: str, names: list[str], intro: str = "") -> str:
    """Return the Markdown of one reference page: a summary table and an entry for each name."""
    entries = "\n".join(f"   {name}" for name in names)
    summary = f".. currentmodule:: {module}\n\n.. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n{entries}"
    return f"# {title}\n\n{intro}\n\n```{{eval-rst}}\n{summary}\n```\n"


def home(value: object) -> str:
    """Return the module in which a public object is defined."""
    return str(getattr(value, "__module__", "") or type(value).__module__)


def write_reference() -> None:
    """Write one page for each group of top-level names, and one for each public module."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    top = {name: getattr(llmhub, name) for name in llmhub.__all__ if not name.startswith("__")}
    pages: dict[str, str] = {}
    left = {
        name: value
        for name, value in top.items()
        if not inspect.ismodule(value) and not (inspect.isclass(value) and issubclass(value, BaseException | Warning))
    }
    for title, homes in GROUPS.items():
        names = [name for name, value in left.items() if home(value).startswith(homes)]
        for name in names:
            del left[name]
        pages[title] = page(title, "llmhub", sorted(names, key=str.lower))
    pages["Types and results"] = page("Types and results", "llmhub", sorted(left, key=str.lower))
    exceptions = [name for name, value in top.items() if inspect.isclass(value) and issubclass(value, BaseException)]
    intro = "All are subclasses of `llmhub.ConnectorError`."
    pages["Exceptions"] = page("Exceptions", "llmhub", sorted(exceptions), intro)
    pages["The accessor"] = page(
        "The accessor",
        "llmhub.notebook.accessor",
        list(ACCESSORS),
        "`df.llm` and `series.llm` on pandas and polars; `llmhub.llm(frame)` for everything else.",
    )
    documented = {id(value) for value in top.values()}
    for title, module in MODULES.items():
        public = importlib.import_module(module)
        values = {name: getattr(public, name) for name in public.__all__ if name not in {"scorers", "tasks"}}
        names = [name for name, value in values.items() if id(value) not in documented]
        documented |= {id(value) for value in values.values()}
        intro = "Names that are also at the top level are described there." if len(names) < len(values) else ""
        if names:
            pages[title] = page(title, module, sorted(names, key=str.lower), intro)
    slugs = {title: title.lower().replace(",", "").replace(" ", "_") for title in pages}
    for title, text in pages.items():
        path = REFERENCE / f"{slugs[title]}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    toc = "\n".join(f"pages/{slug}" for slug in slugs.values())
    index = REFERENCE.parent / "index.md"
    text = f"# API reference\n\nEvery public name, from its docstring.\n\n```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n"
    if not index.exists() or index.read_text(encoding="utf-8") != text:
        index.write_text(text, encoding="utf-8")


write_reference()
