/* Draws each figure's data with uPlot: the mouse and the arrow keys read values, dragging zooms, and colours follow the
   style sheet. */
(function () {
  "use strict";
  var HEIGHT = 260;
  var drawn = [];

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function number(value) {
    if (value === null || value === undefined) return "no value";
    return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
  }

  function say(chart, i) {
    var data = chart.data;
    if (i === null || i === undefined) {
      chart.readout.textContent = "";
      return;
    }
    var last = data.x.length - 1;
    if (data.steps) i = Math.min(i, last - 1);
    var where = data.steps ? number(data.x[i]) + " to " + number(data.x[i + 1]) : number(data.x[i]);
    var values = data.names.map(function (name, k) {
      return name + ": " + number(data.y[k][i]);
    });
    chart.readout.textContent = data.xLabel + " " + where + ", " + values.join(", ");
  }

  function options(chart) {
    var data = chart.data;
    var axis = {
      stroke: colour("--ink"),
      grid: { stroke: colour("--rule"), width: 1 },
      ticks: { stroke: colour("--rule"), width: 1 },
    };
    var series = data.names.map(function (name, k) {
      var line = colour("--line-" + ((k % 6) + 1));
      var one = { label: name, stroke: line, width: 2, points: { show: false }, spanGaps: false };
      one.dash = k ? [[], [8, 4], [2, 3], [10, 3, 2, 3]][k % 4] : undefined;
      if (data.steps) {
        one.paths = uPlot.paths.stepped({ align: 1 });
        if (data.names.length === 1) one.fill = line + "40";
      }
      return one;
    });
    return {
      width: Math.max(200, chart.plot.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false } },
      scales: {
        x: { time: false },
        y: chart.log ? { distr: 3 } : { range: chart.data.steps ? range : undefined },
      },
      axes: [
        Object.assign({ label: data.xLabel }, axis),
        Object.assign({ label: data.yLabel, size: 64 }, axis),
      ],
      series: [{ label: data.xLabel }].concat(series),
      hooks: {
        setCursor: [function (u) { say(chart, u.cursor.idx); }],
        setScale: [function (u, key) { if (key === "x") showWhole(chart, u); }],
      },
    };
  }

  function range(u, least, most) {
    return [0, most ? most * 1.05 : 1];
  }

  function showWhole(chart, u) {
    var x = chart.data.x;
    chart.whole.hidden = u.scales.x.min <= x[0] && u.scales.x.max >= x[x.length - 1];
  }

  function draw(chart) {
    if (chart.u) chart.u.destroy();
    chart.u = new uPlot(options(chart), [chart.data.x].concat(chart.data.y), chart.plot);
  }

  function whole(chart) {
    var x = chart.data.x;
    chart.u.setScale("x", { min: x[0], max: x[x.length - 1] });
  }

  function key(chart, event) {
    var last = chart.data.x.length - 1;
    var i = chart.u.cursor.idx;
    var steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last };
    if (event.key === "Escape") {
      whole(chart);
      return;
    }
    if (!(event.key in steps)) return;
    event.preventDefault();
    i = i === null || i === undefined ? (event.key === "End" ? last : 0) : i + steps[event.key];
    i = Math.max(0, Math.min(last, i));
    chart.u.setCursor({ left: chart.u.valToPos(chart.data.x[i], "x"), top: 10 });
  }

  function legend(chart, figure) {
    if (chart.data.names.length < 2) return;
    var list = document.createElement("ul");
    list.className = "legend";
    chart.data.names.forEach(function (name, k) {
      var item = document.createElement("li");
      item.className = "line-" + ((k % 6) + 1) + " dash-" + (k % 4);
      item.textContent = name;
      list.appendChild(item);
    });
    figure.insertBefore(list, chart.plot);
  }

  function cell(row, kind, text, scope) {
    var made = document.createElement(kind);
    if (scope) made.scope = scope;
    made.textContent = text;
    row.appendChild(made);
  }

  /* the table of a long curve is made when it is opened: in the file it would be larger than the plots */
  function fill(chart, region) {
    var data = chart.data;
    var table = region.appendChild(document.createElement("table"));
    table.createCaption().textContent = region.getAttribute("aria-label");
    var head = table.createTHead().insertRow();
    [data.xLabel].concat(data.names).forEach(function (name) { cell(head, "th", name, "col"); });
    var body = table.createTBody();
    data.x.forEach(function (x, i) {
      var row = body.insertRow();
      cell(row, "th", number(x), "row");
      data.y.forEach(function (column) { cell(row, "td", number(column[i])); });
    });
  }

  function start(figure) {
    var chart = {
      data: JSON.parse(figure.querySelector("script").textContent),
      plot: figure.querySelector(".plot"),
      readout: figure.querySelector(".readout"),
      whole: figure.querySelector(".whole"),
      log: false,
      u: null,
    };
    var region = figure.querySelector(".to-fill");
    if (region) {
      figure.querySelector("details").addEventListener("toggle", function () {
        if (!region.firstChild) fill(chart, region);
      });
    }
    legend(chart, figure);
    draw(chart);
    drawn.push(chart);
    chart.plot.addEventListener("keydown", function (event) { key(chart, event); });
    chart.whole.addEventListener("click", function () { whole(chart); });
    var log = figure.querySelector(".log");
    if (log) {
      log.addEventListener("click", function () {
        chart.log = !chart.log;
        log.setAttribute("aria-pressed", String(chart.log));
        draw(chart);
      });
    }
    new ResizeObserver(function () {
      var width = Math.max(200, chart.plot.clientWidth);
      if (width !== chart.u.width) chart.u.setSize({ width: width, height: HEIGHT });
    }).observe(chart.plot);
  }

  function redraw() {
    drawn.forEach(draw);
  }

  /* a plot is drawn when it comes near the screen, one in a frame: long pages open and scroll at once */
  var waiting = [];

  function next() {
    var figure = waiting.shift();
    if (figure && !figure.querySelector(".uplot")) start(figure);
    if (waiting.length) requestAnimationFrame(next);
  }

  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (!entry.isIntersecting) return;
      seen.unobserve(entry.target);
      waiting.push(entry.target);
      if (waiting.length === 1) requestAnimationFrame(next);
    });
  }, { rootMargin: "600px" });
  var figures = document.querySelectorAll("figure.chart");
  figures.forEach(function (figure) { seen.observe(figure); });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", function () {
    figures.forEach(function (figure) {
      seen.unobserve(figure);
      if (!figure.querySelector(".uplot")) start(figure);
    });
    document.querySelectorAll(".finding details").forEach(function (details) { details.open = true; });
    document.documentElement.classList.add("paper");
    redraw();
  });
  window.addEventListener("afterprint", function () {
    document.documentElement.classList.remove("paper");
    redraw();
  });
})();
