"use strict";
// Tables: a heading sorts its column, again the other way round. What is missing stays last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = heading.closest("table").tBodies[0];
    const key = (row) => {
      const cell = row.cells[heading.cellIndex];
      return cell.classList.contains("number") ? Number(cell.dataset.key) : cell.dataset.key;
    };
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === Infinity || b === Infinity) return (a === Infinity) - (b === Infinity);
      return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
    });
    body.append(...rows);
  });
}
// The film and the plot over time show the same stretch: a line in the plot follows the film, a click there seeks.
const film = document.querySelector("video");
for (const holder of film ? document.querySelectorAll("[data-spans]") : []) {
  const [left, right, begin, end] = JSON.parse(holder.dataset.spans);
  const plot = holder.querySelector("svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", "0");
  line.setAttribute("y2", String(plot.viewBox.baseVal.height));
  plot.append(line);
  const follow = () => {
    const x = left + ((right - left) * (film.currentTime - begin)) / (end - begin);
    line.setAttribute("x1", String(x));
    line.setAttribute("x2", String(x));
    line.style.visibility = "visible";
    if (!film.paused) requestAnimationFrame(follow);
  };
  film.addEventListener("play", follow);
  film.addEventListener("seeked", follow);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
    film.currentTime = Math.min(end, Math.max(begin, begin + ((x - left) / (right - left)) * (end - begin)));
  });
}
