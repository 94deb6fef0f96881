// What the page does where Bokeh's models meet: colours, brushing, one row in full, sliders, and the two looks.
// Values of rows are written as text and never as HTML.
"use strict";

const pyrovae = (() => {
  const at = (id) => document.getElementById(id);
  let models = null; // Bokeh's, by name
  let walks = null; // what sliders show

  // -- one row in full --

  const number = (value) =>
    typeof value !== "number" ? String(value) : Number.isInteger(value) ? String(value) : value.toPrecision(4);

  function line(table, name, ...values) {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.appendChild(head);
    for (const value of values) row.insertCell().textContent = number(value);
  }

  function picture(source, name, size) {
    const image = document.createElement("img");
    image.src = source;
    image.alt = name;
    image.style.width = `${size[0]}px`;
    image.style.height = `${size[1]}px`;
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = name;
    figure.append(image, caption);
    return figure;
  }

  // Places are those on this page; "row" is the row of the data.
  function show(place) {
    const { rows, shown, spinner } = models;
    const data = rows.data;
    const card = at("card");
    card.replaceChildren();
    const title = document.createElement("h3");
    title.textContent = `Row ${data.row[place]}`;
    card.append(title);
    if (shown.size) {
      const pair = document.createElement("div");
      pair.className = "pair";
      pair.append(picture(data.picture[place], "x", shown.size));
      if (data.mean_picture) pair.append(picture(data.mean_picture[place], "E[x|z]", shown.size));
      card.append(pair);
    }
    const table = document.createElement("table");
    for (const [key, name] of shown.figures) line(table, name, data[key][place]);
    card.append(table);
    if (shown.entries.length) {
      const values = document.createElement("table");
      const head = values.createTHead().insertRow();
      for (const name of ["entry", "x", "E[x|z]"]) {
        const cell = document.createElement("th");
        cell.textContent = name;
        head.append(cell);
      }
      for (const [key, mean, name] of shown.entries)
        line(values, name, data[key][place], mean in data ? data[mean][place] : "");
      card.append(values);
    }
    models.marked.data = { x: [data.x[place]], y: [data.y[place]] };
    if (spinner.value !== data.row[place]) spinner.value = data.row[place];
  }

  function goTo(row) {
    const place = Array.from(models.rows.data.row).indexOf(row);
    at("missing").textContent = place < 0 ? `Row ${row} is not among the rows on this page.` : "";
    if (place >= 0) show(place);
  }

  // -- lists of rows --

  function list(places, said) {
    const data = {};
    for (const key of Object.keys(models.listed.data))
      data[key] = places.map((place) => models.rows.data[key][place]);
    models.listed.data = data;
    models.listed.selected.indices = [];
    at("listed").textContent = said;
  }

  const every = () => Array.from(models.rows.data.row.keys());

  let found = null; // places in their order, while a search is what selects them
  function brushed(places) {
    if (found !== null && places.length === found.length && found.every((one) => places.includes(one))) return;
    found = null;
    const all = models.rows.data.row.length;
    if (places.length === 0) list(every(), `All ${all} rows on this page`);
    else list([...places].sort((a, b) => a - b), `${places.length} rows chosen`);
    if (places.length === 1) show(places[0]);
  }

  function find(measure, count) {
    const [key, largest, name] = models.shown.measures[measure];
    const values = models.rows.data[key];
    const known = every().filter((place) => !Number.isNaN(values[place]));
    known.sort((a, b) => (largest ? values[b] - values[a] : values[a] - values[b]));
    found = known.slice(0, count);
    list(found, `${found.length} rows: ${name}, the strangest first`);
    models.rows.selected.indices = found;
    if (found.length) show(found[0]);
  }

  function picked(places) {
    if (places.length) goTo(models.listed.data.row[places[places.length - 1]]);
  }

  // -- colours --

  let coloured = null; // the field by which points are coloured
  function colourBy(key) {
    coloured = key;
    const { renderers, mappers, legend, bar, keys } = models;
    const mapper = mappers[key];
    const classes = mapper.factors !== undefined;
    for (const renderer of renderers) {
      renderer.glyph.fill_color = { field: key, transform: mapper };
      renderer.glyph.line_color = { field: key, transform: mapper };
      renderer.glyph.marker = classes ? { field: key, transform: models.markers[key] } : { value: "circle" };
    }
    legend.visible = classes;
    bar.visible = !classes;
    if (classes) legend.items = keys[key];
    else {
      bar.color_mapper = mapper;
      bar.title = models.titles[key];
    }
  }

  // -- sliders --

  let settled = []; // where each slider stands; Bokeh tells of every change, of those that are made here too, and later

  function settle(k, value) {
    settled[k] = value;
    const slider = models.sliders[k];
    if (slider.value !== value) slider.value = value;
    slider.title = `${walks.dimensions[k]} = ${from().points[k][value].toPrecision(3)}`;
  }

  const from = () => walks.bases[Number(models.base.value)];

  function base() {
    models.sliders.forEach((slider, k) => {
      const steps = from().points[k].length;
      slider.setv({ end: Math.max(1, steps - 1), disabled: steps < 2 });
      settle(k, from().start[k]);
    });
    decoded(from().shown[0][from().start[0]]);
  }

  function slide(k) {
    const value = models.sliders[k].value;
    if (settled[k] === value) return;
    models.sliders.forEach((_, other) => settle(other, other === k ? value : from().start[other]));
    decoded(from().shown[k][value]);
  }

  function decoded(shown) {
    if (walks.size) {
      const pictures = [picture(from().own, "the row", walks.size), picture(shown, "decoded", walks.size)];
      at("decoded").replaceChildren(...pictures);
    } else {
      const { entry } = models.entries.data;
      models.entries.data = { entry: [], own: [], decoded: [] }; // else the table keeps the lines that it has drawn
      models.entries.data = { entry, own: from().own, decoded: shown };
    }
  }

  // -- training --

  function curves(active, early) {
    models.curves.forEach((line, place) => (line.visible = active.includes(place)));
    const whole = models.history_all.data;
    const from = early ? 0 : Math.floor(whole.epoch.length / 20);
    const cut = {};
    for (const key of Object.keys(whole)) cut[key] = Array.from(whole[key]).slice(from);
    models.history.data = cut;
  }

  // -- the two looks --

  function look(which) {
    document.documentElement.dataset.look = which;
    const button = at("look");
    button.textContent = which === "dark" ? "Light look" : "Dark look";
    if (models === null) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const [text, paper, lines, faint] = ["text", "paper", "lines", "faint"].map(colour);
    for (const figure of models.figures) {
      figure.setv({ background_fill_color: paper, border_fill_color: paper, outline_line_color: faint });
      if ("border_line_color" in figure) figure.border_line_color = null;
      if (figure.title) figure.title.text_color = text;
      for (const axis of [...figure.below, ...figure.left].filter((one) => "axis_label_text_color" in one))
        axis.setv({
          axis_label_text_color: text,
          major_label_text_color: text,
          axis_line_color: lines,
          major_tick_line_color: lines,
          minor_tick_line_color: lines,
        });
      for (const grid of figure.center.filter((one) => "grid_line_color" in one)) grid.grid_line_color = faint;
      for (const box of [...figure.center, ...figure.right]) {
        if ("label_text_color" in box)
          box.setv({ label_text_color: text, background_fill_color: paper, border_line_color: null });
        if ("major_label_text_color" in box && "color_mapper" in box)
          box.setv({ major_label_text_color: text, title_text_color: text, background_fill_color: paper });
      }
    }
    // Black of the palette is white on dark paper.
    const [ink, other] = which === "dark" ? ["#000000", "#ffffff"] : ["#ffffff", "#000000"];
    for (const mapper of Object.values(models.mappers))
      if (mapper.factors !== undefined)
        mapper.palette = mapper.palette.map((one) => (one === ink ? other : one));
    if (coloured !== null) {
      for (const { glyph } of models.renderers) glyph.fill_color = glyph.line_color = { value: text };
      colourBy(coloured); // anew, for glyphs keep the colours that they were drawn in
    }
    models.marker.glyph.line_color = text;
    for (const rule of models.rules) rule.line_color = text;
  }

  // -- the keyboard --

  function each(node, kind, act) {
    if (node.classList?.contains(kind)) act(node);
    for (const child of node.children ?? []) each(child, kind, act);
    if (node.shadowRoot) each(node.shadowRoot, kind, act);
  }

  // Tables take the Tab key from one cell to the next, hundreds of times: here it leaves them, and arrows go by cells.
  function leaveTables(event) {
    const inside = (one) => one.classList?.contains("grid-canvas") || one.classList?.contains("bk-data-table");
    if (event.key === "Tab" && event.composedPath().some(inside)) event.stopImmediatePropagation();
  }

  function sortByKey(head) {
    head.tabIndex = 0;
    head.setAttribute("role", "button");
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      head.click();
    });
  }

  const preferred = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

  function start(given) {
    models = given;
    const written = at("walks");
    if (written) {
      walks = JSON.parse(written.textContent);
      base();
    }
    list(every(), `All ${models.rows.data.row.length} rows on this page`);
    colourBy(models.shown.colour);
    show(0);
    if (models.history) curves(models.toggles.active, models.early.active.length > 0);
    look(document.documentElement.dataset.look);
    each(document.body, "slick-header-column", sortByKey);
    document.documentElement.dataset.ready = "yes";
  }

  document.addEventListener("DOMContentLoaded", () => {
    look(document.documentElement.dataset.look ?? preferred());
    document.addEventListener("keydown", leaveTables, true);
    at("look").addEventListener("click", () =>
      look(document.documentElement.dataset.look === "dark" ? "light" : "dark"),
    );
  });

  return { start, goTo, brushed, find, picked, colourBy, base, slide, curves, look };
})();
