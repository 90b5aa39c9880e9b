// Keys press the buttons that name them; a button can be pressed once a page.
"use strict";
let pressed = false;
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
  if (button) {
    event.preventDefault();
    button.click();
  }
});
document.addEventListener("submit", (event) => {
  if (pressed) event.preventDefault();
  pressed = true;
});
window.addEventListener("pageshow", () => { pressed = false; });
