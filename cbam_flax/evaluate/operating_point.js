"use strict";
// Moves the operating point of the report along the ROC curve (see operating_point.py).
{
  const section = document.getElementById("operating-point");
  const curves = JSON.parse(section.querySelector("script").textContent);
  const [finding, slider, prevalence, again, line, dot] =
    ["select", "[type=range]", "[type=number]", "button", "polyline", "circle"]
      .map(selector => section.querySelector(selector));
  const shown = value => Number.isFinite(value) ? value.toFixed(3) : "undefined";
  let curve, ownPrevalence;

  // A curve as it was evaluated: the operating point, the prevalence of these images.
  function start() {
    curve = curves[finding.selectedIndex];
    const {positive, negative, points} = curve;
    ownPrevalence = positive / (positive + negative);
    prevalence.value = (100 * ownPrevalence).toPrecision(4);
    prevalence.defaultValue = prevalence.value;
    slider.max = points.length - 1;
    slider.value = curve.start;
    const corners = points.map(([, tp, fp]) => `${100 * fp / negative},${100 - 100 * tp / positive}`);
    line.setAttribute("points", ["0,100", ...corners].join(" "));
    show();
  }

  function show() {
    const [threshold, tp, fp] = curve.points[slider.value];
    const sensitivity = tp / curve.positive, specificity = 1 - fp / curve.negative;
    let ill = ownPrevalence; // exact where the rounded one was not changed
    if (prevalence.value !== prevalence.defaultValue) {
      ill = prevalence.validity.valid ? prevalence.valueAsNumber / 100 : NaN;
    }
    const found = sensitivity * ill, alarmed = (1 - specificity) * (1 - ill);
    const cleared = specificity * (1 - ill), missed = (1 - sensitivity) * ill;
    const figures = {
      threshold, sensitivity, specificity,
      ppv: found / (found + alarmed), npv: cleared / (cleared + missed),
    };
    for (const cell of section.querySelectorAll("[data-figure]")) {
      cell.textContent = shown(figures[cell.dataset.figure]);
    }
    slider.setAttribute("aria-valuetext", `threshold ${shown(threshold)}, ` +
      `sensitivity ${shown(sensitivity)}, specificity ${shown(specificity)}`);
    dot.setAttribute("cx", 100 - 100 * specificity);
    dot.setAttribute("cy", 100 - 100 * sensitivity);
  }

  finding.addEventListener("change", start);
  again.addEventListener("click", start);
  slider.addEventListener("input", show);
  prevalence.addEventListener("input", show);
  start();
  section.hidden = false;
}
