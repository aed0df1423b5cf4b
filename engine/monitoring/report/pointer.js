// The values under the pointer: everything is read back from the drawing, so the page holds its numbers once.
function point() { for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg"), out = figure.querySelector("output");
  const [x0, x1, a0, a1] = svg.dataset.x.split(" ").map(Number), [y0, y1, b0, b1] = svg.dataset.y.split(" ").map(Number);
  const lines = [...svg.querySelectorAll("polyline")].map(line => [line.dataset.name, [...line.points]]);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor"); cursor.setAttribute("y1", y0); cursor.setAttribute("y2", y1);
  const short = value => Number(value.toPrecision(4)).toLocaleString("en");
  svg.addEventListener("pointermove", event => {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    if (x < x0 || x > x1) return leave();
    const near = lines.map(([name, points]) =>
      [name, points.reduce((best, point) => Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best)]);
    const at = near.reduce((best, [, point]) => Math.abs(point.x - x) < Math.abs(best - x) ? point.x : best, Infinity);
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); svg.append(cursor);
    out.textContent = svg.dataset.across + " " + short(a0 + (at - x0) / (x1 - x0) * (a1 - a0)) + near.map(([name, point]) =>
      "\n" + name + " " + short(b0 + (point.y - y0) / (y1 - y0) * (b1 - b0)) + svg.dataset.unit).join("");
    out.style.display = "block";
    const box = figure.getBoundingClientRect(), left = event.clientX - box.left;
    out.style.left = (left > box.width / 2 ? left - out.offsetWidth - 12 : left + 12) + "px";
    out.style.top = Math.max(event.clientY - box.top - out.offsetHeight - 8, 4) + "px";
  });
  const leave = () => { out.style.display = "none"; cursor.remove(); };
  svg.addEventListener("pointerleave", leave);
} }
point();
