// Part 7: curves with the value under the pointer, and the table of results.
"use strict";

/** Evenly spaced round numbers that cover [low, high]. */
function ticks(low, high, n = 5, whole = false) {
  const raw = Math.max((high - low) / n || 1, whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw), found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + 1e-9 * step; x += step) found.push(Math.abs(x) < 1e-12 ? 0 : x);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function svg(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

part("results", [], () => {
  const { charts, header, rows, documents } = content.results;
  const box = $("#results-chart"), value = $("#results-value"), select = $("#results-run");
  if (charts.length) {
    select.append(...charts.map(({ title, unit }, i) => element("option", { value: i, textContent: `${title}: ${unit}` })));
    let at = 0, places = [], draw = () => {};

    const render = () => {
      const { lines, x: xName, unit } = charts[select.value], names = Object.keys(lines);
      const { width, height } = box.getBoundingClientRect(), [left, right, top, bottom] = [56, 96, 16, 40];
      const all = Object.values(lines).flat(), xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
      const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
      const py = (y) => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - top - bottom);
      const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      const across = ticks(x0, x1, width < 500 ? 4 : 8, xName === "epoch"), up = ticks(y0, y1);
      for (const y of up.found) {
        picture.append(svg("line", { class: "tick", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
        picture.append(svg("text", { x: left - 8, y: py(y) + 4, "text-anchor": "end" }, fixed(y, up.digits)));
      }
      for (const x of across.found) picture.append(svg("text", { x: px(x), y: height - bottom + 18, "text-anchor": "middle" }, fixed(x, across.digits)));
      picture.append(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
      const labels = names.map((name, i) => {
        picture.append(svg("path", { class: `line${i}`, d: lines[name].map(([x, y], j) => `${j ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("") }));
        return { name, i, y: py(lines[name].at(-1)[1]) + 4 };
      }).sort((a, b) => a.y - b.y);
      labels.forEach((label, i) => {
        if (i) label.y = Math.max(label.y, labels[i - 1].y + 16);
        picture.append(svg("text", { class: `name${label.i}`, x: width - right + 8, y: label.y }, label.name));
      });
      const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom }), dots = names.map((_, i) => svg("circle", { r: 4, class: `name${i}` }));
      picture.append(cursor, ...dots);
      box.replaceChildren(picture);
      places = [...new Set(xs)].sort((a, b) => a - b);
      at = Math.min(at, places.length - 1);
      draw = () => {
        const x = places[at];
        cursor.setAttribute("x1", px(x));
        cursor.setAttribute("x2", px(x));
        const said = names.map((name, i) => {
          const [cx, cy] = lines[name].reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
          dots[i].setAttribute("cx", px(cx));
          dots[i].setAttribute("cy", py(cy));
          return `${name} ${fixed(cy, Math.abs(cy) < 10 ? 3 : 2)}`;
        });
        value.textContent = `${xName} ${Number.isInteger(x) ? x : x.toFixed(0)}: ${said.join(", ")} ${unit.includes(",") ? unit.split(", ")[1] : ""}`;
      };
      box.onpointermove = (event) => {
        const x = x0 + ((event.clientX - box.getBoundingClientRect().left - left) / (width - left - right)) * (x1 - x0);
        at = places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0);
        draw();
      };
      draw();
    };
    box.onpointerdown = (event) => box.onpointermove(event);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(places.length - 1, at + step));
      draw();
    });
    select.addEventListener("change", () => { at = Infinity; render(); });
    at = Infinity;
    new ResizeObserver(render).observe(box);
  } else box.parentElement.hidden = true;

  const table = $("#results-table"), body = element("tbody");
  const amount = (cell) => Number.parseFloat(cell.replaceAll(",", ""));
  const all = (i, test) => rows.filter((row) => row[i]).every((row) => test(row[i]));
  const numeric = header.map((_, i) => all(i, (cell) => Number.isFinite(amount(cell))));  // "52 s, cpu" too
  const toTheRight = header.map((_, i) => all(i, (cell) => /^[-\d.,]+$/.test(cell)));
  const heads = header.map((name, i) => {
    const button = element("button", { type: "button", textContent: name });
    const head = element("th", { scope: "col", className: toTheRight[i] ? "number" : "" }, button);
    button.addEventListener("click", () => sort(i, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    return head;
  });
  const lines = rows.map((row, r) => element("tr", {}, ...row.map((cell, i) => {
    const className = `${toTheRight[i] ? "number" : ""} ${header[i] === "ours" ? "ours" : ""}`.trim();
    if (i) return element("td", { textContent: cell.replace(/(^| )-(?=\d)/g, "$1−"), className });
    return element("td", { className }, element("a", { href: content.docs + documents[r], textContent: cell }));
  })));
  function sort(column, direction) {
    heads.forEach((head, i) => { if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending"); else head.removeAttribute("aria-sort"); });
    const order = [...lines.keys()].sort((a, b) => {
      const [p, q] = [rows[a][column], rows[b][column]];
      if (!p || !q) return (p ? 0 : 1) - (q ? 0 : 1);  // empty cells last
      return direction * (numeric[column] ? amount(p) - amount(q) : p.localeCompare(q, "en", { numeric: true }));
    });
    body.replaceChildren(...order.map((i) => lines[i]));
  }
  body.append(...lines);
  table.append(element("thead", {}, element("tr", {}, ...heads)), body);
  if (!rows.length) table.parentElement.hidden = true;
});
