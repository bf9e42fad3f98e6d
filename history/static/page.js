// Keeps live pages up to date, and lets the keyboard do what the mouse can.
"use strict";

function refresh() {
  const main = document.getElementById("main");
  const seconds = Number(main.dataset.live);
  if (!seconds) return;
  setTimeout(async () => {
    try {
      const focused = main.contains(document.activeElement) && document.activeElement !== main;
      const busy = focused || !document.getSelection().isCollapsed;
      if (!document.hidden && !busy) {
        const answer = await fetch(location.href);
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          replace(main, page.getElementById("main"));
        }
      }
    } catch {
      // The server has stopped, or will answer the next time.
    }
    refresh();
  }, seconds * 1000);
}

// Tables keep their place: a narrow window shows a part of them.
function replace(main, fresh) {
  if (main.innerHTML === fresh.innerHTML) return;
  const places = new Map([...main.querySelectorAll(".scroll")].map((one) => [one.ariaLabel, one.scrollLeft]));
  main.replaceChildren(...fresh.childNodes);
  for (const one of main.querySelectorAll(".scroll")) one.scrollLeft = places.get(one.ariaLabel) ?? 0;
}

function rows() {
  return [...document.querySelectorAll("a.row")];
}

function move(by) {
  const main = document.getElementById("main");
  const target = by > 0 ? main.dataset.next : main.dataset.previous;
  if (target) {
    location.href = target;
    return;
  }
  const links = rows();
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
  if (next) next.focus();
}

function verdict(value, score) {
  const form = document.activeElement.closest("form.verdict") ?? document.querySelector("form.verdict");
  if (!form) return;
  const choice = form.querySelector(`input[name=verdict][value=${value}]`);
  if (!choice) return;
  choice.checked = true;
  form.elements.score.value = score;
  choice.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=radio]), select, textarea")) return;
  const key = event.key;
  if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "a") verdict("agree", "");
  else if (key === "u") verdict("unsure", "");
  else if (/^[1-9]$/.test(key)) verdict("should_be", key);
  else if (key === "/") document.querySelector("form.filters input:not([type=hidden])")?.focus();
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  if (!event.target.matches("button.copy")) return;
  const text = event.target.previousElementSibling.textContent;
  navigator.clipboard?.writeText(text).then(() => { event.target.textContent = "Copied"; });
});

document.addEventListener("input", (event) => {
  if (event.target.name !== "score" || !event.target.value) return;
  const choice = event.target.form?.querySelector("input[value=should_be]");
  if (choice) choice.checked = true;
});

refresh();
