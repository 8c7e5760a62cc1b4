"use strict";
(() => {
  const known = JSON.parse(document.getElementById("known").textContent);
  const sites = new Map(known.sites.map((site) => [site.name, site]));

  function made(name, facts, ...children) {
    const item = document.createElement(name);
    for (const [key, value] of Object.entries(facts)) item.setAttribute(key, value);
    item.append(...children);
    return item;
  }

  function drawn(name, facts, ...children) {
    const item = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) item.setAttribute(key, value);
    item.append(...children);
    return item;
  }

  const number = (value, digits = 3) => (value === null ? "" : String(Number(value.toPrecision(digits))));

  // Sorting: a cell's data-v is its value where its text is not.
  function value(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  }

  function sort(table, column, down) {
    const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("detail"));
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    });
    for (const [, row] of keyed) {
      const detail = row.nextElementSibling?.classList.contains("detail") ? row.nextElementSibling : null;
      table.tBodies[0].append(row, ...(detail ? [detail] : []));
    }
  }

  for (const button of document.querySelectorAll(".sheet thead button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement, table = head.closest("table");
      const down = head.getAttribute("aria-sort") === "ascending" || (head.getAttribute("aria-sort") === null && head.dataset.first === "down");
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, head.cellIndex, down);
    });
  }

  // Filtering: all words of the box, and the kind of the list.
  for (const tools of document.querySelectorAll(".tools")) {
    const table = document.getElementById(tools.dataset.of), box = tools.querySelector("input"), list = tools.querySelector("select");
    const rows = [...table.tBodies[0].rows], count = tools.querySelector("output");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const filter = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const fits = words.every((word) => texts[index].includes(word)) && (!list?.value || (row.dataset.is ?? "").split(" ").includes(list.value));
        row.hidden = !fits;
        if (!fits) shut(row);
        shown += fits;
      });
      count.textContent = `${shown} of ${rows.length}`;
    };
    box.addEventListener("input", filter);
    list?.addEventListener("change", filter);
    filter();
  }

  // Details of a layer: its tensors, their histograms and what other widths would cost.
  function histogram(spread) {
    const width = 340, height = 110, base = 84, left = 8, right = width - 8;
    const low = Math.min(spread.low, ...(spread.grid ?? [])), high = Math.max(spread.high, ...(spread.grid ?? []));
    const at = (value) => left + ((right - left) * (value - low)) / (high - low || 1);
    const step = (spread.high - spread.low) / (spread.histogram.length || 1);
    const plot = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "histogram of the values" });
    spread.histogram.forEach((count, index) => {
      const tall = count ? (Math.log(1 + count) / Math.log(1001)) * 66 : 0, x = at(spread.low + index * step);
      plot.append(drawn("rect", { x, y: base - tall, width: Math.max(at(spread.low + (index + 1) * step) - x - 0.4, 0.4), height: tall, class: "count" }));
    });
    plot.append(drawn("line", { x1: left, x2: right, y1: base, y2: base, class: "tick" }));
    for (const [end, anchor] of [[low, "start"], [high, "end"]]) plot.append(drawn("text", { x: at(end), y: base + 14, "text-anchor": anchor }, number(end)));
    if (low < 0 && high > 0) plot.append(drawn("text", { x: at(0), y: base + 14, class: "mid" }, "0"));
    for (const end of spread.grid ?? []) plot.append(drawn("line", { x1: at(end), x2: at(end), y1: 6, y2: base, class: "clip" }));
    return plot;
  }

  function widths(site) {
    const heads = ["bits", "expected loss", "time of its nodes (us)", "stored (B)"].map((text) => made("th", { class: "n", scope: "col" }, text));
    const rows = site.alternatives.map((row) => {
      const cells = [String(row.bits), number(row.loss), row.time_us === null ? "" : row.time_us.toFixed(1), row.stored === null ? "" : row.stored.toLocaleString("en")];
      const line = made("tr", {}, ...cells.map((text) => made("td", { class: "n" }, text)));
      if (row.bits === site.bits) line.append(made("td", { class: "low" }, "\u25C6 chosen"));
      return line;
    });
    return made("table", {}, made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...rows));
  }

  function tensor(title, site) {
    const spread = site.spread, facts = [];
    if (spread) {
      facts.push(`values from ${number(spread.low)} to ${number(spread.high)}, ${(100 * spread.zeros).toFixed(1)} % zeros`);
      if (spread.grid) facts.push(`codes reach from ${number(spread.grid[0])} to ${number(spread.grid[1])} (dashed), step ${number(spread.scale)}${spread.zero_point ? `, zero point ${spread.zero_point}` : ""}`);
    }
    const parts = [made("h3", {}, `${title}: ${site.name}`), made("p", { class: "quiet" }, `${site.shape.join("x") || "one value"}, ${site.bits === null ? "float" : site.bits + " bits"}. ${site.reason}`)];
    if (spread?.histogram.length) parts.push(histogram(spread), made("p", { class: "quiet" }, `${facts.join("; ")}. Heights are logarithms of counts.`));
    else if (facts.length) parts.push(made("p", { class: "quiet" }, `${facts.join("; ")}.`));
    if (site.alternatives.length) parts.push(widths(site));
    return made("div", {}, ...parts);
  }

  function shut(row) {
    if (!row.classList.contains("open")) return;
    row.classList.remove("open");
    row.querySelector("button").setAttribute("aria-expanded", "false");
    row.nextElementSibling.remove();
  }

  for (const button of document.querySelectorAll("#layers td.name button")) {
    const row = button.closest("tr"), layer = known.layers[Number(row.dataset.i)];
    button.addEventListener("click", () => {
      if (row.classList.contains("open")) return shut(row);
      row.classList.add("open");
      button.setAttribute("aria-expanded", "true");
      const shown = [["weights", layer.weight], ["output", layer.output]].filter(([, name]) => sites.has(name));
      const parts = shown.map(([title, name]) => tensor(title, sites.get(name)));
      const cell = made("td", { colspan: row.cells.length }, made("div", { class: "flow" }, ...(parts.length ? parts : ["nothing was seen of its tensors"])));
      row.after(made("tr", { class: "detail" }, cell));
    });
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.of).textContent);
        button.textContent = "copied";
      } catch {
        button.textContent = "select it and copy";
      }
    });
  }
})();
