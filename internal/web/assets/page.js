// Keeps the page of a sign-in up to date. Everything also works without it.
"use strict";

const panel = document.getElementById("panel");
const byID = (id) => document.getElementById(id);

// set shows text and tells a screen reader about it, once.
function set(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

// countdown shows how much time is left while a code is awaited.
function countdown() {
  const left = byID("left");
  if (!left) return;
  const seconds = Math.max(0, Math.round((Date.parse(left.dataset.until) - Date.now()) / 1000));
  set(left, `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`);
}

// wire gives the parts of a fresh panel their behaviour.
function wire() {
  const copy = byID("copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byID("address").value);
      copy.textContent = "Copied";
    });
  }
  const open = byID("open");
  if (open) open.addEventListener("click", () => byID("code").focus());
  for (const form of panel.querySelectorAll("form")) {
    form.addEventListener("submit", (event) => { // once
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = "yes";
    });
  }
  countdown();
}

// draw replaces what has changed. The words come from our own server's templates.
function draw(event) {
  byID("lost").hidden = true;
  byID("profiles").innerHTML = event.profiles;
  if (event.mark === panel.dataset.mark) return; // as it is: what is being typed stays
  const inside = panel.contains(document.activeElement);
  panel.dataset.mark = event.mark;
  panel.dataset.state = event.state;
  panel.innerHTML = event.panel;
  set(byID("headline"), event.headline);
  wire();
  const next = panel.querySelector(".trouble") ? byID("open") : panel.querySelector("a.main, button.main");
  if (inside && next) next.focus();
}

if (panel) {
  wire();
  setInterval(countdown, 1000);
  const events = new EventSource(`/signin/${panel.dataset.name}/events`);
  events.onmessage = (message) => draw(JSON.parse(message.data));
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) location.reload(); // no longer the operator's
    else byID("lost").hidden = false;
  };
}
