"use strict";
const table = document.querySelector("#results");
const rows = Array.from(table.tBodies[0].rows);
const points = new Map(rows.map((row) => [row, document.querySelectorAll(`[id$="-point-${row.dataset.point}"]`)]));

function show() {
  const words = document.querySelector("#search").value.toLowerCase().split(/\s+/);
  const chosen = Array.from(document.querySelectorAll("select[data-filter]"));
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const shown = words.every((word) => text.includes(word)) &&
      chosen.every((select) => !select.value || row.dataset[select.dataset.filter] === select.value);
    row.hidden = !shown;
    for (const point of points.get(row)) point.style.display = shown ? "" : "none";
    count += shown;
  }
  document.querySelector("#count").textContent = `${count} of ${rows.length} results`;
}

function sort(heading) {
  const down = heading.getAttribute("aria-sort") !== "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[heading.cellIndex].dataset.sort;
  const order = (a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") return (first === "") - (second === "");
    const numbers = [Number(first), Number(second)];
    const compared = numbers.some(Number.isNaN) ? first.localeCompare(second) : numbers[0] - numbers[1];
    return down ? -compared : compared;
  };
  table.tBodies[0].append(...rows.sort(order));
}

for (const heading of table.tHead.rows[0].cells) heading.querySelector("button")?.addEventListener("click", () => sort(heading));
for (const input of document.querySelectorAll("#search, select[data-filter]")) input.addEventListener("input", show);
document.querySelector("#filters").hidden = false;
show();
