// The filter; without scripts it is hidden, and everything is shown.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const form = document.getElementById("filter");
form.hidden = false;
form.addEventListener("change", () => {
  const { verdict, scale } = Object.fromEntries(new FormData(form));
  document.body.classList.toggle("filtered", Boolean(verdict));
  for (const claim of all(".claim"))
    claim.hidden = Boolean(verdict) && claim.dataset.verdict !== verdict;
  for (const result of all(".result")) {
    const other = scale && result.dataset.scale !== scale;
    const none = verdict && !result.querySelector(".claim:not([hidden])");
    result.hidden = Boolean(other || none);
    if (verdict || scale) result.open = true;
  }
  for (const article of all("article"))
    article.hidden = !article.querySelector(".result:not([hidden])");
  for (const link of all("nav li a"))
    link.parentElement.hidden = document.querySelector(link.hash).hidden;
});
