/* Heat maps: a row for each part, a column for each time, dark where the share is small. */
figures.kinds.heat = function (base) {
  "use strict";
  var HEIGHT = 260;
  var LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  var PICKED = 12; /* columns of the table */
  var data = base.data;
  var rows = data.rows.length;
  var at = null;
  var where = 0;
  var number = figures.number;

  var canvas = document.createElement("canvas");
  var pointer = document.createElement("div");
  pointer.className = "pointer";
  pointer.hidden = true;

  function level(column, row) {
    return LEVELS.indexOf(data.cells[column * rows + row]);
  }

  /* see HeatMap.data: levels are equal factors, from 1/64 of an even share to 64 times it */
  function share(column, row) {
    var found = level(column, row);
    return found ? (100 / rows) * Math.pow(2, ((found - 1) / (LEVELS.length - 2)) * 12 - 6) : 0;
  }

  function percent(value) {
    return value ? String(Number(value.toPrecision(2))) : "0";
  }

  function mixed(low, high, part) {
    return low.map(function (value, k) { return Math.round(value + (high[k] - value) * part); });
  }

  function parsed(name) {
    var hex = figures.colour(name);
    return [1, 3, 5].map(function (k) { return parseInt(hex.slice(k, k + 2), 16); });
  }

  function draw() {
    if (!canvas.parentNode) {
      base.plot.appendChild(canvas);
      base.plot.appendChild(pointer);
      axis();
      legend();
    }
    canvas.width = data.x.length;
    canvas.height = rows;
    var context = canvas.getContext("2d");
    var image = context.createImageData(canvas.width, canvas.height);
    var low = parsed("--heat-low");
    var high = parsed("--heat-high");
    var none = parsed("--heat-none");
    var colours = Array.from(LEVELS, function (letter, k) {
      return k ? mixed(low, high, Math.max(0, Math.min(1, (k - 16) / 32))) : none; /* 1/8 to 8 times an even share */
    });
    for (var i = 0; i < canvas.width; i++) {
      for (var r = 0; r < rows; r++) {
        var place = 4 * (r * canvas.width + i);
        var found = colours[level(i, r)];
        image.data[place] = found[0];
        image.data[place + 1] = found[1];
        image.data[place + 2] = found[2];
        image.data[place + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  function legend() {
    var list = document.createElement("ul");
    list.className = "legend";
    [["never", "none"], ["1/8 of an even share or less", "low"], ["8 times an even share or more", "high"]].forEach(function (one) {
      var item = document.createElement("li");
      item.className = "area heat-" + one[1];
      item.textContent = one[0];
      list.appendChild(item);
    });
    base.figure.insertBefore(list, base.plot);
  }

  function axis() {
    var labels = document.createElement("div");
    var last = data.x.length - 1;
    labels.className = "axis";
    var ends = last > 1 ? [0, Math.round(last / 2), last] : last ? [0, last] : [0];
    ends.forEach(function (i) {
      var label = document.createElement("span");
      label.textContent = (i ? "" : data.xLabel + " ") + number(data.x[i]);
      labels.appendChild(label);
    });
    base.plot.appendChild(labels);
  }

  function say() {
    var dead = 0;
    for (var r = 0; r < rows; r++) dead += level(at, r) === 0;
    base.readout.textContent =
      data.xLabel + " " + number(data.x[at]) + ", " + data.part + " " + data.rows[where] + ": about " +
      percent(share(at, where)) + " %; unused: " + dead + " of " + rows;
    pointer.hidden = false;
    pointer.style.left = (100 * (at + 0.5)) / data.x.length + "%";
    pointer.style.top = (canvas.clientHeight * (where + 0.5)) / rows + "px";
  }

  canvas.addEventListener("mousemove", function (event) {
    at = Math.min(data.x.length - 1, Math.floor((event.offsetX / canvas.clientWidth) * data.x.length));
    where = Math.max(0, Math.min(rows - 1, Math.floor((event.offsetY / canvas.clientHeight) * rows)));
    say();
  });

  return {
    count: data.x.length,
    draw: draw,
    at: function () { return at; },
    go: function (i) {
      at = i;
      say();
    },
    key: function (event) {
      if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return false;
      at = at === null ? 0 : at;
      where = Math.max(0, Math.min(rows - 1, where + (event.key === "ArrowUp" ? -1 : 1)));
      say();
      return true;
    },
    whole: function () {},
    resize: function () {},
    fill: function (region) {
      var picked = [];
      for (var k = 0; k < PICKED; k++) {
        var i = Math.round((k * (data.x.length - 1)) / (PICKED - 1));
        if (picked.indexOf(i) < 0) picked.push(i);
      }
      var head = picked.map(function (i) { return data.xLabel + " " + number(data.x[i]); });
      figures.fill(region, [data.part].concat(head), rows, function (r) {
        return [String(data.rows[r])].concat(picked.map(function (i) { return percent(share(i, r)); }));
      });
    },
  };
};
