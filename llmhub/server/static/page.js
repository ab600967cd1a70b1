// Replaces the figures of the page every two seconds, while it is visible and nothing in it is selected.
"use strict";
const INTERVAL_MS = 2000;
const live = document.getElementById("live");
const pause = document.getElementById("pause");
let paused = false;
let loading = false;

function isRead() {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && live.contains(selection.anchorNode);
}

async function refresh() {
  if (paused || loading || document.hidden || isRead()) return;
  loading = true;
  try {
    const reply = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
    if (reply.status === 401) return location.reload();
    if (!reply.ok) throw new Error(reply.statusText);
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
    const open = Array.from(live.querySelectorAll("details"), (each) => each.open);
    const scrolled = Array.from(live.querySelectorAll(".scroll"), (each) => each.scrollLeft);
    live.replaceChildren(...fresh.getElementById("live").childNodes);
    live.querySelectorAll("details").forEach((each, at) => { each.open = Boolean(open[at]); });
    live.querySelectorAll(".scroll").forEach((each, at) => { each.scrollLeft = scrolled[at] || 0; });
    for (const selector of [".pill", ".wide"]) {
      document.querySelector(`header ${selector}`).replaceWith(fresh.querySelector(`header ${selector}`));
    }
    document.body.classList.remove("lost");
    if (!paused) pause.textContent = "Live";
  } catch {
    document.body.classList.add("lost");
    pause.textContent = "Not connected";
  } finally {
    loading = false;
  }
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Paused" : "Live";
  refresh();
});
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, INTERVAL_MS);
