"use strict";
// The images of a report: a wall of cards, and a viewer of one image, in the layer that both share.
(() => {
  const {images, outcomes} = JSON.parse(document.getElementById("data").textContent);
  if (!images.length) return;
  const by = id => document.getElementById(id);
  by("wall").hidden = false; // it comes whole: filled in sight, it would push what is below
  const errors = Object.keys(outcomes).filter(outcome => outcome !== "tp"); // outcomes: {name: the reader's word}
  const comparing = images.some(image => image.other);
  const three = number => number.toFixed(3);
  const signed = number => (number < 0 ? "−" : number > 0 ? "+" : "") + three(Math.abs(number));
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function makeSvg(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  // ---- what is known of an image -----------------------------------------------------------------

  // Some errors show on both sides: a merged pair and the one nucleus found for it. The side that has more counts.
  function countErrors(image) {
    const count = (nuclei, error) => (nuclei || []).filter(nucleus => nucleus[0] === error).length;
    return Object.fromEntries(errors.map(error => [error, Math.max(count(image.truth, error), count(image.found, error))]));
  }

  const rising = (a, b) => a < b ? -1 : a > b ? 1 : 0; // of Infinity and Infinity, too
  const mean = numbers => numbers && numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : null;

  for (const image of images) {
    image.confidence = mean(image.confidences);
    image.counts = countErrors(image);
    image.errors = errors.reduce((sum, error) => sum + image.counts[error], 0);
  }

  const describeScore = image => image.score === null ? "no truth" : `score ${three(image.score)}`;
  const describeErrors = image => image.truth
    ? errors.filter(error => image.counts[error]).map(error => `${image.counts[error]} ${outcomes[error]}`).join(" · ") || "no fault"
    : `${image.found.length} ${image.found.length === 1 ? "nucleus" : "nuclei"}`;
  const describeConfidence = image => image.confidence === null ? "" : `confidence ${three(image.confidence)}`;
  function describeDifference(image) {
    if (!image.other) return "";
    return image.difference === null ? `agreement ${three(image.agreement)}` : `difference ${signed(image.difference)}`;
  }

  const describe = image => [image.kind, describeScore(image), describeErrors(image), describeConfidence(image),
    describeDifference(image)].filter(Boolean);
  const known = {
    score: images.some(image => image.score !== null), confidence: images.some(image => image.confidence !== null),
  };

  // The colours of confidence go from the least that the run has to 1: thresholds leave nothing below 0.9 in some.
  const least = Math.min(.9, ...images.map(image => Math.floor(10 * Math.min(1, ...image.confidences || [])) / 10));
  const scale = confidence => (confidence - least) / (1 - least);

  // ---- drawing -----------------------------------------------------------------------------------

  const sides = {found: "Prediction", truth: "Truth", other: "Other run"};

  // An SVG of an image and its outlines. `apart` gives each nucleus its own element, for the pointer.
  function draw(image, apart) {
    const svg = makeSvg("svg", {class: "picture", viewBox: `0 0 ${image.width} ${image.height}`, role: "img"});
    svg.setAttribute("aria-label", describe(image).join(", "));
    svg.append(makeSvg("image", {href: image.source, width: image.width, height: image.height}));
    for (const side of Object.keys(sides)) {
      const groups = {}; // by outcome, and by confidence in eighths of the scale
      (image[side] || []).forEach((nucleus, index) => {
        const sure = side === "found" && image.confidences ? Math.round(8 * scale(image.confidences[index])) : "";
        (groups[`${nucleus[0]} ${sure}`] ||= []).push([nucleus, index]);
      });
      const sorted = Object.entries(groups).sort(([a], [b]) => rising(a.split(" ")[1], b.split(" ")[1]));
      for (const [key, members] of sorted) { // the least sure first, for the keys that go through them
        const [outcome, sure] = key.split(" "), group = makeSvg("g", {class: `${side} ${outcome}`});
        if (sure) group.style.setProperty("--sure", `${sure / 8 * 100}%`);
        const all = members.map(([[, , path]]) => path).join("");
        group.append(makeSvg("path", {class: "casing", d: all}));
        if (!apart) group.append(makeSvg("path", {class: "outline", d: all}));
        else for (const [[, , path], index] of members)
          group.append(makeSvg("path", {class: "outline", d: path, "data-side": side, "data-index": index}));
        svg.append(group);
      }
    }
    return svg;
  }

  // ---- the layer, shared by wall and viewer ------------------------------------------------------

  const layers = ["image", ...(known.score ? ["truth", "prediction", "differences"] : ["prediction"]),
    ...(comparing ? ["other"] : [])];
  const layerNames = {image: "Image", truth: "Truth", prediction: "Prediction", differences: "Differences", other: "Other run"};

  function showLayer(layer) {
    document.body.dataset.layer = layer;
    for (const input of document.querySelectorAll(".layers input")) input.checked = input.value === layer;
  }

  for (const id of ["layers", "viewer-layers"]) {
    for (const layer of layers) {
      const input = make("input", {type: "radio", name: id, value: layer});
      input.addEventListener("change", () => showLayer(layer));
      by(id).append(make("label", {}, input, layerNames[layer]));
    }
  }
  by("last-layer").textContent = layers.length;

  for (const id of ["legend", "viewer-legend"]) {
    for (const [outcome, word] of Object.entries(outcomes)) {
      const sample = makeSvg("svg", {class: `picture ${outcome}`, viewBox: "0 0 34 16", "aria-hidden": "true"});
      sample.append(makeSvg("path", {class: "outline", d: "M4 8H30"}));
      by(id).append(make("li", {class: outcome}, sample, word));
    }
    by(id).append(make("li", {class: "scale"}, `confidence ${least}`, make("span", {class: "ramp"}), "1"));
  }

  // ---- the wall ----------------------------------------------------------------------------------

  const last = value => value === null || value === undefined ? Infinity : value; // what is not known comes last
  const orders = {
    ...(comparing && {"differ most": (a, b) => distance(b) - distance(a)}),
    ...(known.score && {
      "lowest score": (a, b) => rising(last(a.score), last(b.score)),
      "highest score": (a, b) => rising(last(a.score && -a.score), last(b.score && -b.score)),
      "most faults": (a, b) => b.errors - a.errors,
    }),
    ...(known.confidence && {"least sure": (a, b) => rising(last(a.confidence), last(b.confidence))}),
    "most nuclei": (a, b) => b.found.length - a.found.length,
    "name": (a, b) => a.id < b.id ? -1 : 1,
  };
  const distance = image => !image.other ? -1
    : image.difference === null ? 1 - image.agreement : Math.abs(image.difference);

  function fill(select, options) {
    for (const [value, text] of options) select.append(make("option", {value}, text));
    select.addEventListener("change", arrange);
    select.parentElement.hidden = options.length < 2;
  }

  const present = name => [...new Set(images.map(image => image[name]))].sort();
  const choices = values => [...(values.length === 1 ? [] : [["", "all"]]), ...values.map(value => [value, value])];

  function makeCard(image) {
    const link = make("a", {href: address(image), title: image.id});
    link.append(draw(image, false));
    const [first, second] = image.score === null // what there is to see, then how good or how sure it is
      ? [describeErrors(image), describeConfidence(image) || "no truth"] : [three(image.score), describeErrors(image)];
    link.append(make("p", {}, make("strong", {}, first), make("span", {}, image.kind)));
    link.append(make("p", {}, make("span", {}, second), make("span", {}, describeDifference(image))));
    link.setAttribute("aria-label", [image.id, image.part, ...describe(image)].join(", "));
    return make("li", {class: "card"}, link);
  }

  const address = image => `#image=${encodeURIComponent(image.id)}`;
  const cards = new Map();
  let shown = []; // the images of the wall, in its order

  function arrange() {
    const [part, kind, error] = ["part", "kind", "error"].map(id => by(id).value);
    shown = images.filter(image => (!part || image.part === part) && (!kind || image.kind === kind)
      && (!error || (error === "none" ? image.truth && !image.errors : image.counts[error])));
    shown.sort(orders[by("sort").value]);
    for (const image of shown) if (!cards.has(image)) cards.set(image, makeCard(image));
    by("cards").replaceChildren(...shown.map(image => cards.get(image)));
    by("count").textContent = `${shown.length} of ${plural(images.length, "image")}`;
    by("nothing").hidden = shown.length > 0;
  }

  fill(by("sort"), Object.keys(orders).map(name => [name, name]));
  fill(by("part"), choices(present("part")));
  fill(by("kind"), choices(present("kind")));
  fill(by("error"), images.some(image => image.truth)
    ? [["", "any or none"], ...errors.map(error => [error, outcomes[error]]), ["none", "none"]] : [["", "unknown"]]);

  // ---- the viewer --------------------------------------------------------------------------------

  const viewer = by("viewer"), stage = by("stage");
  let current = null, svg = null, view = null, nucleus = null;

  function open(image) {
    current = image;
    by("viewer-title").textContent = image.id;
    by("facts").textContent = [image.part, `${image.width} × ${image.height} px`, ...describe(image)].join(" · ");
    svg = draw(image, true);
    stage.replaceChildren(svg);
    choose(null);
    fit();
    if (viewer.open) return;
    viewer.showModal();
    viewer.focus(); // not its first button, whose ring would suggest that it was pressed
  }

  function close() {
    current = null;
    if (viewer.open) viewer.close();
  }

  function follow() { // what the address says
    const match = /^#image=(.*)$/.exec(location.hash);
    let id = null;
    try { id = match && decodeURIComponent(match[1]); } catch { /* no address of ours */ }
    const image = id !== null && images.find(one => one.id === id);
    image ? open(image) : close();
  }

  function step(by) {
    const ring = shown.includes(current) ? shown : images;
    const image = ring[(ring.indexOf(current) + by + ring.length) % ring.length];
    history.replaceState(null, "", address(image));
    open(image);
  }

  viewer.addEventListener("close", () => {
    const card = cards.get(current);
    current = null;
    if (location.hash) history.replaceState(null, "", location.pathname + location.search);
    if (card) card.querySelector("a").focus();
  });
  addEventListener("hashchange", follow);

  // Zoom and pan: `view` is the part of the image that is seen, in its px.
  function look(x, y, width) {
    const height = width * current.height / current.width;
    view = {x: Math.min(Math.max(x, -width / 2), current.width - width / 2),
      y: Math.min(Math.max(y, -height / 2), current.height - height / 2), width, height};
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  }

  const fit = () => look(0, 0, current.width);
  const middle = () => ({x: view.x + view.width / 2, y: view.y + view.height / 2});

  function zoom(factor, at = middle()) {
    const width = Math.min(Math.max(view.width / factor, current.width / 40), current.width * 1.5);
    const ratio = width / view.width;
    look(at.x - (at.x - view.x) * ratio, at.y - (at.y - view.y) * ratio, width);
  }

  const pan = (right, down) => look(view.x + right * view.width, view.y + down * view.height, view.width);

  function inImage(x, y) {
    return new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse());
  }

  stage.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), inImage(event.clientX, event.clientY));
  }, {passive: false});

  const pointers = new Map(); // the fingers, or the mouse's button, that are down
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return b && {distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2};
  };
  stage.addEventListener("pointerdown", event => {
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    const target = document.elementFromPoint(event.clientX, event.clientY);
    choose(target && target.closest(".outline"));
  });
  stage.addEventListener("pointermove", event => {
    const before = pointers.get(event.pointerId);
    if (!before) return choose(event.target.closest && event.target.closest(".outline"));
    const apart = spread(), from = inImage(before.x, before.y), to = inImage(event.clientX, event.clientY);
    pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    if (pointers.size === 1) look(view.x + from.x - to.x, view.y + from.y - to.y, view.width);
    else if (apart && apart.distance) zoom(spread().distance / apart.distance, inImage(apart.x, apart.y));
  });
  for (const name of ["pointerup", "pointercancel"])
    stage.addEventListener(name, event => pointers.delete(event.pointerId));
  stage.addEventListener("dblclick", event => zoom(2, inImage(event.clientX, event.clientY)));

  // The nucleus under the pointer, or the one that the keys have come to.
  function choose(element) {
    if (nucleus) nucleus.classList.remove("chosen");
    nucleus = element;
    if (!element) return by("nucleus").textContent = "";
    element.classList.add("chosen");
    const {side, index} = element.dataset, [outcome, iou] = current[side][index];
    const facts = [`${sides[side]}: nucleus ${+index + 1}`, ...(outcome ? [outcomes[outcome], `best IoU ${three(iou)}`] : [])];
    if (side === "found" && current.confidences) facts.push(`confidence ${three(current.confidences[index])}`);
    by("nucleus").textContent = facts.join(" · ");
  }

  function stepNucleus(by) {
    const seen = [...svg.querySelectorAll(".outline")].filter(path => getComputedStyle(path.parentNode).display !== "none");
    if (!seen.length) return;
    const at = seen.indexOf(nucleus), element = seen[at < 0 ? (by > 0 ? 0 : seen.length - 1) : (at + by + seen.length) % seen.length];
    const box = element.getBBox(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    const inside = x > view.x && x < view.x + view.width && y > view.y && y < view.y + view.height;
    if (!inside) look(x - view.width / 2, y - view.height / 2, view.width);
    choose(element);
  }

  const keys = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoom(1.5), "=": () => zoom(1.5),
    "-": () => zoom(1 / 1.5), "−": () => zoom(1 / 1.5), 0: fit, n: () => stepNucleus(1), p: () => stepNucleus(-1),
  };
  const moves = {ArrowLeft: [-.2, 0], ArrowRight: [.2, 0], ArrowUp: [0, -.2], ArrowDown: [0, .2]};

  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.target.type === "radio" && event.key.startsWith("Arrow")) return; // they choose the layer
    if (layers[event.key - 1]) return showLayer(layers[event.key - 1]);
    if (!viewer.open) return;
    if (event.shiftKey && moves[event.key]) pan(...moves[event.key]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });

  for (const [id, act] of Object.entries({previous: keys.ArrowLeft, next: keys.ArrowRight, larger: keys["+"],
    smaller: keys["-"], fit, close})) by(id).addEventListener("click", act);

  document.body.classList.toggle("sure", known.confidence);
  showLayer(known.score ? "differences" : "prediction");
  arrange();
  follow();
})();
