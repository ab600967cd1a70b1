"""The live panel of a notebook: bars by model, a button to stop where one works, and text in their place at the end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import Progress
from llmhub.progress.html import progress_html

IPYWIDGETS: Final = "ipywidgets"


MIN_KERNEL_VERSION: Final = 7
"""The first version of ipykernel in which a button is heard while a cell awaits (tried with 6.31 and 7.0 to 7.4)."""


class ProgressWidget:
    """A run's panel under the cell that began it.

    Make it in the thread that runs the cell; everything else may happen in another. The widgets come with the first
    report, so that a run which is over before has none, and once ipywidgets is loaded, for which nothing waits.
    """

    def __init__(self, first: Progress, stop: StopSignal | None = None) -> None:
        import IPython.display  # noqa: PLC0415 - only a notebook needs it

        show: Any = IPython.display
        self._html = show.HTML
        self._stop = stop
        self._last = first
        self._box: Any = None
        self._closed = False
        self._handle = show.display(show.HTML(progress_html(first)), display_id=True)
        self._loaded = threading.Event()
        if IPYWIDGETS in sys.modules:
            self._loaded.set()
        else:
            threading.Thread(target=self._load, name="llmhub-widgets", daemon=True).start()

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        self._last = progress
        if progress.finished:
            self.close()
        elif not self._closed and self._loaded.is_set():
            if self._box is None:
                self._rise(progress_html(progress))
            self._say(progress)

    def close(self) -> None:
        """Put text in the place of the widgets: a saved notebook keeps it, and no widget that is dead."""
        if self._closed:
            return
        self._closed = True
        note = "" if self._last.finished else "ended early"
        self._handle.update(self._html(progress_html(self._last, note)))
        if self._box is not None:
            for part in (*self._box.children, self._box):
                # Its layout and style are widgets too, and outlive it otherwise.
                for own in (getattr(part, "style", None), part.layout, part):
                    if own is not None:
                        own.close()

    def _load(self) -> None:
        import ipywidgets  # noqa: F401, PLC0415 - a quarter of a second, while the run has begun

        self._loaded.set()

    def _rise(self, html: str) -> None:
        """Put widgets in the place of the first text, which stays beside them for those who cannot show widgets."""
        widgets: Any = sys.modules[IPYWIDGETS]
        parts = [widgets.HTML(html)]
        if self._stop is not None:
            parts.append(_button(widgets, self._stop.request))
        self._box = widgets.VBox(parts)
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/html": html, "text/plain": "llmhub run"}
        self._handle.update(bundle, raw=True)

    def _say(self, progress: Progress) -> None:
        text, *buttons = self._box.children
        text.value = progress_html(progress)
        for button in buttons if progress.stopping else ():
            button.description = "Cut off"
            button.tooltip = "Do not wait for what is under way; it may be charged"


def _button(widgets: Any, ask: Callable[[], None]) -> Any:
    """Make the button. It says that a stop is wished for, and does nothing else."""
    button = widgets.Button(
        description="Stop",
        icon="stop",
        tooltip="Send nothing more; keep what has come",
        layout=widgets.Layout(width="8em"),
    )
    button.on_click(lambda _: ask())
    return button


def supports_live_buttons() -> bool:
    """Say whether this kernel hears a button while a run goes on that does not block its cell."""
    kernel: Any = sys.modules.get("ipykernel")
    version = getattr(kernel, "version_info", (0,))
    return bool(version) and int(version[0]) >= MIN_KERNEL_VERSION


def is_notebook() -> bool:
    """Say whether this is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
