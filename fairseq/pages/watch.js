/* A page that is served asks from time to time for a newer version of itself, and loads it. */
(function () {
  "use strict";
  var SECONDS = 5;
  var place = document.querySelector(".watch");
  var wish = place.querySelector("input");
  var button = place.querySelector("button");
  var status = place.querySelector("output");
  var version = null;

  try {
    wish.checked = sessionStorage.getItem("reload") !== "no";
  } catch (error) {
    wish.checked = true;
  }
  wish.addEventListener("change", function () {
    try {
      sessionStorage.setItem("reload", wish.checked ? "yes" : "no");
    } catch (error) {
      status.textContent = "";
    }
  });
  button.addEventListener("click", function () { location.reload(); });

  function ask() {
    fetch(location.pathname, { method: "HEAD", cache: "no-store" }).then(function (answer) {
      var found = answer.headers.get("ETag");
      status.textContent = "";
      if (version !== null && found !== version) {
        if (wish.checked) location.reload();
        button.hidden = false;
        status.textContent = "The run has new records.";
        return;
      }
      version = found;
    }, function () {
      status.textContent = "fairseq-report --serve does not answer.";
    });
  }

  setInterval(ask, SECONDS * 1000);
  ask();
})();
