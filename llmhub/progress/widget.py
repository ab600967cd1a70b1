"""Progress of a run in a Jupyter notebook: live bars with a stop button, replaced by static HTML at the end.

ipywidgets is loaded in the background while the run has already begun, because loading it takes a quarter of a second.
The widgets are closed at the end, so that a saved notebook keeps readable HTML instead of views of dead widgets.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import Progress
from llmhub.progress.html import progress_html

IPYWIDGETS: Final = "ipywidgets"
MIN_KERNEL_VERSION: Final = 7
"""First major version of ipykernel that handles button clicks while a cell is awaited (tried 6.31 and 7.0 to 7.4)."""


class ProgressWidget:
    """A widget below the cell that began the run.

    Create it in the thread that executes the cell; reports may come from another. The widgets are created by the first
    report after ipywidgets is loaded, so a run that ends before has none.

    Parameters
    ----------
    initial
        The state before the run begins.
    stop
        Stop signal that the button sets; no button if it is ``None``.
    """

    def __init__(self, initial: Progress, stop: StopSignal | None = None) -> None:
        import IPython.display  # noqa: PLC0415 - only a notebook needs it

        display: Any = IPython.display
        self._html = display.HTML
        self._stop = stop
        self._latest = initial
        self._box: Any = None
        self._closed = False
        self._handle = display.display(display.HTML(progress_html(initial)), display_id=True)
        self._loaded = threading.Event()
        if IPYWIDGETS in sys.modules:
            self._loaded.set()
        else:
            threading.Thread(target=self._load_ipywidgets, name="llmhub-widgets", daemon=True).start()

    def __call__(self, progress: Progress) -> None:
        """Show a state; close the widgets if the run is finished."""
        self._latest = progress
        if progress.finished:
            self.close()
        elif not self._closed and self._loaded.is_set():
            if self._box is None:
                self._create_widgets(progress_html(progress))
            self._update_widgets(progress)

    def close(self) -> None:
        """Replace the widgets by static HTML."""
        if self._closed:
            return
        self._closed = True
        latest, note = self._latest, ""
        if not latest.finished:
            # What was expected of a run that goes on is no longer true.
            latest = replace(latest, in_flight=0, remaining_s=None, limited_by="", refused_by="", stopping=False)
            note = "ended early"
        self._handle.update(self._html(progress_html(latest, note)))
        if self._box is not None:
            for widget in (*self._box.children, self._box):
                # Layout and style are widgets of their own, which closing their owner leaves open.
                for part in (getattr(widget, "style", None), widget.layout, widget):
                    if part is not None:
                        part.close()

    def _load_ipywidgets(self) -> None:
        import ipywidgets  # noqa: F401, PLC0415 - takes a quarter of a second

        self._loaded.set()

    def _create_widgets(self, html: str) -> None:
        """Replace the static HTML by widgets; frontends without widgets keep the HTML."""
        widgets: Any = sys.modules[IPYWIDGETS]
        children = [widgets.HTML(html)]
        if self._stop is not None:
            children.append(_stop_button(widgets, self._stop.request))
        self._box = widgets.VBox(children)
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/html": html, "text/plain": "llmhub run"}
        self._handle.update(bundle, raw=True)

    def _update_widgets(self, progress: Progress) -> None:
        html, *buttons = self._box.children
        html.value = progress_html(progress)
        for button in buttons if progress.stopping else ():
            button.description = "Cancel"
            button.tooltip = "Cancel calls in flight; they may be charged"


def _stop_button(widgets: Any, on_click: Callable[[], None]) -> Any:
    button = widgets.Button(
        description="Stop",
        icon="stop",
        tooltip="Send no further calls; wait for those in flight",
        layout=widgets.Layout(width="8em"),
    )
    button.on_click(lambda _: on_click())
    return button


def supports_live_buttons() -> bool:
    """Return whether this kernel handles button clicks while a cell is awaited."""
    kernel: Any = sys.modules.get("ipykernel")
    version = getattr(kernel, "version_info", (0,))
    return bool(version) and int(version[0]) >= MIN_KERNEL_VERSION


def is_notebook() -> bool:
    """Return whether this process is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
