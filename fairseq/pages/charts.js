/* Plots, drawn with uPlot: dragging zooms, buttons change the axis and smooth, and findings are marked. */
figures.kinds.chart = function (base) {
  "use strict";
  var HEIGHT = 260;
  var LINES = 8; /* colours in the style sheet */
  var FEW = 40; /* a series with at most so many values shows them as points */
  var DENSE = 300; /* with more values, noise becomes a solid band: the smoothed curve is shown first */
  var data = base.data;
  var plot = null;
  var state = { log: false, smooth: Boolean(data.smooth) && data.x.length > DENSE };
  var colour = figures.colour;
  var number = figures.number;

  function say(i) {
    if (i === null || i === undefined) {
      base.readout.textContent = "";
      return;
    }
    if (data.steps) i = Math.min(i, data.x.length - 2);
    var where = data.steps ? number(data.x[i]) + " to " + number(data.x[i + 1]) : number(data.x[i]);
    var values = [];
    data.names.forEach(function (name, k) {
      var value = data.y[k][i];
      if (value !== null || !data.joined) values.push(name + ": " + number(value));
    });
    if (data.expected && data.expected[1][i] !== null) {
      values.push(data.expected[0] + ": " + number(data.expected[1][i]) + " to " + number(data.expected[2][i]));
    }
    base.readout.textContent = data.xLabel + " " + where + ", " + values.join(", ");
  }

  function line(k) {
    return colour("--line-" + ((k % LINES) + 1));
  }

  function one(name, k, values) {
    var present = values.filter(function (value) { return value !== null; }).length;
    var made = { label: name, stroke: line(k), width: 2, spanGaps: Boolean(data.joined) };
    made.points = { show: present <= FEW && !data.steps && !data.stacked, size: 5 };
    made.dash = k ? [[], [8, 4], [2, 3], [10, 3, 2, 3]][k % 4] : undefined;
    if (data.steps) {
      made.paths = uPlot.paths.stepped({ align: 1 });
      if (data.names.length === 1) made.fill = line(k) + "40";
    }
    return made;
  }

  /* the columns and the series of uPlot in the present state */
  function content() {
    var columns = [data.x];
    var series = [{ label: data.xLabel }];
    function add(values, made) {
      columns.push(state.log ? values.map(function (v) { return v > 0 ? v : null; }) : values);
      series.push(made);
    }
    if (data.stacked) {
      stack().forEach(function (values, place) {
        var k = data.names.length - 1 - place;
        add(values, { stroke: line(k), fill: line(k), width: 0, points: { show: false } });
      });
      return { columns: columns, series: series };
    }
    var bands = [];
    if (data.expected) {
      add(data.expected[2], { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true });
      add(data.expected[1], { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true });
      bands.push({ series: [1, 2], fill: colour("--expected") });
    }
    data.names.forEach(function (name, k) {
      var made = one(name, k, data.y[k]);
      var smooth = state.smooth ? data.smooth[k] : [];
      if (smooth.length) {
        made.stroke = line(k) + "4d";
        made.width = 1;
        made.dash = undefined;
      }
      add(data.y[k], made);
      if (smooth.length) add(smooth, one(name, k, smooth));
    });
    return { columns: columns, series: series, bands: bands };
  }

  /* sums of the first series, the first two ..., the largest first: each is drawn over the one before */
  function stack() {
    var sums = data.x.map(function () { return 0; });
    return data.y.map(function (values) {
      sums = sums.map(function (sum, i) { return sum + (values[i] || 0); });
      return sums;
    }).reverse();
  }

  function scale() {
    if (state.log) return { distr: 3, range: function (u, least, most) { return uPlot.rangeLog(least, most, 10, false); } };
    if (data.stacked) return { range: function (u, least, most) { return [0, most || 1]; } };
    return data.steps ? { range: function (u, least, most) { return [0, most ? most * 1.05 : 1]; } } : {};
  }

  /* labels of the y axis; on a logarithmic one, uPlot leaves out those that have no room */
  function ticks(u, values) {
    return values.map(function (value) { return value === null ? "" : number(value); });
  }

  function width(u, values) {
    var longest = Math.max.apply(null, (values || []).map(function (text) { return text.length; }).concat(3));
    return 22 + 7 * longest;
  }

  function draw() {
    var made = content();
    var axis = {
      stroke: colour("--ink"),
      grid: { stroke: colour("--rule"), width: 1 },
      ticks: { stroke: colour("--rule"), width: 1 },
    };
    if (plot) plot.destroy();
    plot = new uPlot(
      {
        width: Math.max(200, base.plot.clientWidth),
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false } },
        scales: { x: { time: false }, y: scale() },
        axes: [
          Object.assign({ label: data.xLabel, labelSize: 20, labelGap: -6 }, axis),
          Object.assign({ label: data.yLabel, size: width, labelSize: 24, values: ticks }, axis),
        ],
        series: made.series,
        bands: made.bands,
        hooks: {
          setCursor: [function (u) { say(u.cursor.idx); }],
          setScale: [function (u, name) { if (name === "x") showWhole(u); }],
          draw: data.marks ? [marks] : [],
        },
      },
      made.columns,
      base.plot
    );
  }

  /* a line where each finding begins, a shade as far as it lasts, and a flag that leads to the finding */
  function marks(u) {
    var top = u.bbox.top;
    var height = u.bbox.height;
    var context = u.ctx;
    var flags = u.over.querySelectorAll("a");
    context.save();
    context.beginPath();
    context.rect(u.bbox.left, top, u.bbox.width, height);
    context.clip();
    data.marks.forEach(function (mark, k) {
      var tone = colour("--" + mark[2]);
      var begin = u.valToPos(mark[0], "x", true);
      var end = u.valToPos(mark[1], "x", true);
      context.fillStyle = tone + "1f";
      context.fillRect(begin, top, Math.max(0, end - begin), height);
      context.fillStyle = tone;
      context.fillRect(begin - 1, top, 2 * devicePixelRatio, height);
      var flag = flags[k] || u.over.appendChild(document.createElement("a"));
      var left = u.valToPos(mark[0], "x");
      flag.className = "flag " + mark[2];
      flag.href = "#" + mark[3];
      flag.textContent = String(k + 1);
      flag.tabIndex = -1; /* the list below has the same links for the keyboard */
      flag.setAttribute("aria-hidden", "true");
      flag.hidden = left < 0 || left > u.over.clientWidth;
      flag.style.left = Math.max(0, Math.min(left, u.over.clientWidth - 20)) + "px";
      flag.style.top = (k % 4) * 22 + "px";
    });
    context.restore();
  }

  function showWhole(u) {
    var x = data.x;
    base.whole.hidden = u.scales.x.min <= x[0] && u.scales.x.max >= x[x.length - 1];
  }

  function legend() {
    if (data.names.length < 2 && !data.expected) return;
    var list = document.createElement("ul");
    list.className = "legend";
    function item(name, look) {
      var made = document.createElement("li");
      made.className = look;
      made.textContent = name;
      list.appendChild(made);
    }
    data.names.forEach(function (name, k) {
      item(name, "line-" + ((k % LINES) + 1) + (data.stacked ? " area" : " dash-" + (k % 4)));
    });
    if (data.expected) item(data.expected[0], "area expected");
    base.figure.insertBefore(list, base.plot);
  }

  function button(name) {
    var found = base.figure.querySelector("." + name);
    if (!found) return;
    found.setAttribute("aria-pressed", String(state[name]));
    found.addEventListener("click", function () {
      state[name] = !state[name];
      found.setAttribute("aria-pressed", String(state[name]));
      draw();
    });
  }

  legend();
  button("log");
  button("smooth");
  return {
    count: data.x.length,
    draw: draw,
    at: function () { return plot.cursor.idx; },
    go: function (i) {
      plot.setCursor({ left: plot.valToPos(data.x[i], "x"), top: 10 });
      say(i); /* two values may share a pixel */
    },
    whole: function () { plot.setScale("x", { min: data.x[0], max: data.x[data.x.length - 1] }); },
    resize: function (width) { if (width !== plot.width) plot.setSize({ width: width, height: HEIGHT }); },
    fill: function (region) {
      var columns = data.y.concat(data.expected ? data.expected.slice(1) : []);
      var names = data.names.concat(
        data.expected ? [data.expected[0] + ", low", data.expected[0] + ", high"] : []
      );
      figures.fill(region, [data.xLabel].concat(names), data.x.length, function (i) {
        return [number(data.x[i])].concat(columns.map(function (column) { return column[i] === null ? "-" : number(column[i]); }));
      });
    },
  };
};
