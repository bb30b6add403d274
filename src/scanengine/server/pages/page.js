(function () {
  "use strict";
  // Between one answer without a result and the next question; after the last the person decides.
  var PAUSES_MS = [1000, 2000, 4000, 8000, 15000, 30000];
  var REPLY_MS_MAX = 20000;
  var section = document.getElementById("prize");
  var stage = document.getElementById("stage");
  var outcome = document.getElementById("outcome");
  var isBusy = false;
  // Without these the form posts itself, and the reply is this page with the outcome in it.
  if (!section || !window.fetch || !window.DOMParser || !window.Promise) return;

  function tell(name) {
    var line = document.createElement("p");
    line.className = "lead";
    line.textContent = section.getAttribute("data-" + name);
    fill(outcome, [line]);
  }

  function fill(place, nodes) {
    while (place.firstChild) place.removeChild(place.firstChild);
    nodes.forEach(function (node) { place.appendChild(node); });
  }

  function moved(place) {
    return Array.prototype.map.call(place.childNodes, function (node) { return document.importNode(node, true); });
  }

  function angle() {
    var wheel = stage.querySelector("svg");
    var found = wheel && /^matrix\(([^,]+),([^,]+)/.exec(getComputedStyle(wheel).transform);
    return found ? Math.atan2(+found[2], +found[1]) * 180 / Math.PI : 0;
  }

  function show(fresh) {
    var from = angle();
    section.setAttribute("data-state", fresh.getAttribute("data-state"));
    section.className = fresh.className + (fresh.querySelector("#outcome").firstChild ? " moving" : "");
    fill(stage, moved(fresh.querySelector("#stage")));
    fill(outcome, moved(fresh.querySelector("#outcome")));
    var wheel = stage.querySelector("svg");
    if (wheel) wheel.style.setProperty("--from", from + "deg");
    // The button that had the focus is gone.
    (outcome.firstChild ? outcome : stage.querySelector("a, button") || outcome).focus();
    isBusy = false;
  }

  function giveUp(form) {
    section.setAttribute("data-state", "ready");
    tell("giveup");
    form.querySelector("button").removeAttribute("aria-disabled");
    isBusy = false;
  }

  // The server keeps the visit in a cookie, so however often it is asked, it is one scan and one claim.
  function ask(form, tries) {
    var control = window.AbortController ? new AbortController() : null;
    var timer = control && setTimeout(function () { control.abort(); }, REPLY_MS_MAX);
    var options = { method: "POST", headers: { Accept: "text/html" }, credentials: "same-origin", cache: "no-store" };
    if (control) options.signal = control.signal;
    fetch(form.getAttribute("action"), options).then(function (reply) {
      return reply.text().then(function (text) {
        clearTimeout(timer);
        // Without head and style, which may be those of a newer theme that this page's policy does not allow.
        var main = /<main>[\s\S]*<\/main>/.exec(text);
        var fresh = new DOMParser().parseFromString(main ? main[0] : "", "text/html").getElementById("prize");
        if (fresh && reply.status < 500) show(fresh);
        else if (fresh || reply.status === 429 || reply.status >= 500) again(form, tries, "waiting");
        else giveUp(form);
      });
    }).catch(function () {
      clearTimeout(timer);
      again(form, tries, "offline");
    });
  }

  function again(form, tries, name) {
    if (tries >= PAUSES_MS.length) return giveUp(form);
    tell(name);
    setTimeout(function () { ask(form, tries + 1); }, PAUSES_MS[tries]);
  }

  function begin(form) {
    if (isBusy) return;
    isBusy = true;
    section.setAttribute("data-state", "waiting");
    form.querySelector("button").setAttribute("aria-disabled", "true");
    if (!stage.contains(form)) fill(stage, [form]);
    tell("waiting");
    ask(form, 0);
  }

  section.addEventListener("submit", function (event) {
    event.preventDefault();
    begin(event.target);
  });
  if (section.getAttribute("data-state") === "pending") begin(outcome.querySelector("form"));
})();
