"use strict";
// Without this script the page shows the default of every figure, and no switches.
document.documentElement.classList.add("js");

for (const box of document.querySelectorAll("[data-switched]")) {
  const fields = [...box.querySelectorAll("fieldset")];
  const variants = [...box.querySelectorAll("[data-variant]")];
  const missing = box.querySelector(".missing");
  if (fields.length === 0) continue;
  const show = () => {
    const key = fields.map((field) => field.querySelector("select, input:checked").value).join(" ");
    let found = false;
    for (const variant of variants) {
      variant.hidden = variant.dataset.variant !== key;
      found = found || !variant.hidden;
    }
    if (missing) missing.hidden = found;
  };
  box.addEventListener("change", show);
  show(); // a browser can remember what was chosen before
}

// What a mark says, beside the pointer.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

const say = (event) => {
  const mark = event.target instanceof Element
    ? event.target.closest("svg.chart [aria-label]:not(svg)") : null;
  tip.hidden = mark === null || mark.closest(".role-axis, .role-legend") !== null;
  if (tip.hidden) return;
  tip.textContent = mark.getAttribute("aria-label");
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 4);
  const above = event.clientY - height - 10;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${above < 4 ? event.clientY + 16 : above}px`;
};
document.addEventListener("pointermove", say);
document.addEventListener("pointerdown", say);
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
