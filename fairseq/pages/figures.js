/* What plots and heat maps share: they are drawn when they come near the screen, the mouse and the arrow keys read their
   values, and their tables are made when they are opened. A kind of figure is a function in `figures.kinds`. */
var figures = (function () {
  "use strict";
  var kinds = {};
  var drawn = [];
  var whole = new Intl.NumberFormat("en");
  var short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function number(value) {
    if (value === null || value === undefined) return "no value";
    return (Number.isInteger(value) ? whole : short).format(value);
  }

  function cell(row, kind, text, scope) {
    var made = document.createElement(kind);
    if (scope) made.scope = scope;
    made.textContent = text;
    row.appendChild(made);
  }

  function row(table, cells) {
    var made = table.insertRow();
    cells.forEach(function (text, k) { cell(made, k ? "td" : "th", text, k ? "" : "row"); });
  }

  /* the table of a long curve is made when it is opened: in the file it would be larger than the plots. A few rows in
     a frame: the page stays usable meanwhile */
  function fill(region, head, count, cells) {
    var table = region.appendChild(document.createElement("table"));
    table.createCaption().textContent = region.getAttribute("aria-label");
    var top = table.createTHead().insertRow();
    head.forEach(function (name) { cell(top, "th", name, "col"); });
    var body = table.createTBody();
    var made = 0;
    (function some() {
      var until = Math.min(count, made + Math.max(10, Math.round(2000 / head.length)));
      for (; made < until; made++) row(body, cells(made));
      if (made < count) requestAnimationFrame(some);
    })();
  }

  function key(shape, event) {
    var last = shape.count - 1;
    var steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last };
    if (event.key === "Escape") {
      shape.whole();
      return;
    }
    if (shape.key && shape.key(event)) {
      event.preventDefault();
      return;
    }
    if (!(event.key in steps)) return;
    event.preventDefault();
    var i = shape.at();
    i = i === null || i === undefined ? (event.key === "End" ? last : 0) : i + steps[event.key];
    shape.go(Math.max(0, Math.min(last, i)));
  }

  function start(figure) {
    var base = {
      figure: figure,
      data: JSON.parse(figure.querySelector("script").textContent),
      plot: figure.querySelector(".plot"),
      readout: figure.querySelector(".readout"),
      whole: figure.querySelector(".whole"),
    };
    var shape = kinds[figure.classList.contains("heat") ? "heat" : "chart"](base);
    var region = figure.querySelector(".to-fill");
    if (region) {
      figure.querySelector("details").addEventListener("toggle", function () {
        if (!region.firstChild) shape.fill(region);
      });
    }
    shape.draw();
    drawn.push(shape);
    base.plot.addEventListener("keydown", function (event) { key(shape, event); });
    base.whole.addEventListener("click", function () { shape.whole(); });
    new ResizeObserver(function () { shape.resize(Math.max(200, base.plot.clientWidth)); }).observe(base.plot);
  }

  function isDrawn(figure) {
    return figure.querySelector(".plot").firstChild !== null;
  }

  function redraw() {
    drawn.forEach(function (shape) { shape.draw(); });
  }

  /* one in a frame: long pages open and scroll at once */
  var waiting = [];

  function next() {
    var figure = waiting.shift();
    if (figure && !isDrawn(figure)) start(figure);
    if (waiting.length) requestAnimationFrame(next);
  }

  document.addEventListener("DOMContentLoaded", function () {
    var seen = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        seen.unobserve(entry.target);
        waiting.push(entry.target);
        if (waiting.length === 1) requestAnimationFrame(next);
      });
    }, { rootMargin: "600px" });
    var all = document.querySelectorAll("figure.chart, figure.heat");
    all.forEach(function (figure) { seen.observe(figure); });
    window.addEventListener("beforeprint", function () {
      all.forEach(function (figure) {
        seen.unobserve(figure);
        if (!isDrawn(figure)) start(figure);
      });
      document.querySelectorAll(".finding details").forEach(function (details) { details.open = true; });
      document.documentElement.classList.add("paper");
      redraw();
    });
  });
  window.addEventListener("afterprint", function () {
    document.documentElement.classList.remove("paper");
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  return { kinds: kinds, colour: colour, number: number, fill: fill };
})();
