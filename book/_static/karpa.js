// What only a script can do. Pages are complete without it.

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

// A figure opens alone when pressed: on a phone its letters are too small beside the text.
for (const picture of document.querySelectorAll(".cell_output figure img, .cell_output .output img")) {
  if (picture.closest("a")) continue;
  const link = Object.assign(document.createElement("a"), { href: picture.src, className: "enlarge", title: "Open the figure alone" });
  picture.replaceWith(link);
  link.append(picture);
}

// sphinx-book-theme takes the focus away from the color button when it is pressed: give it back to keyboard users.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".theme-switch-button");
  if (button && event.detail === 0) button.focus();
});
