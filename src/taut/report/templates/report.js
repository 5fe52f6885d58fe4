// Draws the figures and redraws them when the theme changes or the page is printed.
(() => {
  "use strict";
  const PRINT_WIDTH = 660; // CSS pixels of text width on A4 and Letter with the page's margins
  const NARROW = 520;
  const canHover = window.matchMedia("(hover: hover)").matches; // else it would stay and cover the legend

  // Strings such as "var(--ink)" become the value that the page's theme has for them.
  function themed(value, style) {
    if (typeof value === "string") {
      const match = /^var\((--[\w-]+)\)$/.exec(value);
      return match ? style.getPropertyValue(match[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, style)]));
    }
    return value;
  }

  function draw(place, width) {
    const json = document.getElementById("data-" + place.dataset.figure).textContent;
    const figure = themed(JSON.parse(json), getComputedStyle(document.documentElement));
    const layout = figure.layout;
    if (width) layout.width = width;
    if ((width || place.clientWidth) < NARROW) layout.font.size = 11;
    return Plotly.react(place, figure.data, layout, {
      displaylogo: false,
      responsive: !width,
      displayModeBar: !width && canHover ? "hover" : false,
      modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
    });
  }

  const places = Array.from(document.querySelectorAll("[data-figure]"));
  const drawAll = (width) => Promise.all(places.map((place) => draw(place, width)));

  function beforePrint() {
    document.documentElement.classList.add("printing");
    for (const details of document.querySelectorAll('details[data-print="open"]')) {
      details.dataset.wasOpen = details.open;
      details.open = true;
    }
    drawAll(PRINT_WIDTH);
  }

  function afterPrint() {
    document.documentElement.classList.remove("printing");
    for (const details of document.querySelectorAll("details[data-was-open]")) {
      details.open = details.dataset.wasOpen === "true";
      delete details.dataset.wasOpen;
    }
    drawAll();
  }

  drawAll().then(() => document.documentElement.classList.add("drawn"));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
})();
