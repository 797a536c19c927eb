// Two repairs that only a script can make. Pages are complete without it.

// Boxes that scroll sideways must be reachable with the tab key. The theme sees to code and tables; formulas are set
// after it has looked. A long formula inside a sentence gets a box of its own where it would widen the page.
const markWideBoxes = () => {
  for (const formula of document.querySelectorAll("span.math mjx-container")) {
    formula.classList.toggle("wide", formula.offsetWidth > formula.closest("p, li, dd, td, h2, h3, figcaption, div").clientWidth);
  }
  for (const box of document.querySelectorAll("div.math mjx-container, mjx-container.wide, .cell_output .output")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
const afterMath = () => Promise.resolve(window.MathJax?.startup?.promise).then(markWideBoxes);
window.addEventListener("load", afterMath);
window.addEventListener("resize", afterMath);

// sphinx-book-theme takes the focus away from the color button when it is pressed: give it back to keyboard users.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".theme-switch-button");
  if (button && event.detail === 0) button.focus();
});
