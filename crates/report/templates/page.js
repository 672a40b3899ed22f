"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");

  // Titles become tips of our own, which appear at once.
  for (const title of document.querySelectorAll(".chart title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }

  const place = (event) => {
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
    const top = Math.min(event.clientY + 14, innerHeight - height - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  const element = (name, text = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const tellOne = (text) => {
    const [head, ...rest] = text.split("\n");
    tip.replaceChildren(element("b", head), rest.join("\n"));
  };
  // Everything at one number of tokens, the fastest first.
  const tellAll = (points) => {
    const rows = points.map((point) => {
      const [head, time] = point.dataset.tip.split("\n");
      const row = element("tr");
      const name = element("td");
      const swatch = element("i");
      swatch.style.color = getComputedStyle(point).color;
      name.append(swatch, head.split(" · ")[1]);
      row.append(name, element("td", time.replace(" the fastest", "")));
      return [Number(time.split(", ")[1].split(" ")[0]), row];
    });
    rows.sort((a, b) => a[0] - b[0]);
    const table = element("table");
    table.append(...rows.map((row) => row[1]));
    tip.replaceChildren(element("b", points[0].dataset.tip.split(" · ")[0]), table);
  };

  // A frame's own coordinates of a place on the screen.
  const within = (svg, event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  };

  for (const svg of document.querySelectorAll(".chart")) {
    const plots = [...svg.querySelectorAll(".plot")].map((frame) => {
      const [left, top, width, height] = frame.dataset.box.split(" ").map(Number);
      return { frame, left, top, width, height, kx: 1, dx: 0, ky: 1, dy: 0 };
    });
    const marked = [...svg.querySelectorAll("[data-x]")];
    const guide = document.createElementNS(SVG, "path");
    guide.setAttribute("class", "picked-x");
    const plotAt = (x, y) =>
      plots.find((p) => x >= p.left && x <= p.left + p.width && y >= p.top && y <= p.top + p.height);

    svg.addEventListener("pointermove", (event) => {
      const [x, y] = within(svg, event);
      const plot = plotAt(x, y);
      const shown = plot ? marked.filter((point) => getComputedStyle(point.closest(".s")).display !== "none") : [];
      if (shown.length === 0) {
        guide.remove();
        const told = event.target.closest("[data-tip]");
        if (!told) tip.hidden = true;
        else { tellOne(told.dataset.tip); place(event); }
        return;
      }
      const at = (point) => Number(point.dataset.x) * plot.kx + plot.dx;
      const nearest = shown.reduce((a, b) => (Math.abs(at(b) - x) < Math.abs(at(a) - x) ? b : a));
      const same = shown.filter((point) => point.dataset.x === nearest.dataset.x && plot.frame.contains(point));
      const [first, last] = [plots[0], plots[plots.length - 1]];
      guide.setAttribute("d", `M${at(nearest)} ${first.top}V${last.top + last.height}`);
      svg.append(guide);
      const direct = event.target.closest("[data-tip]");
      if (direct) tellOne(direct.dataset.tip);
      else tellAll(same);
      place(event);
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; guide.remove(); });

    if (plots.length === 0) continue;
    svg.classList.add("zoomable");

    const apply = (plot) => {
      const { frame, kx, dx, ky, dy } = plot;
      frame.querySelector(".zoomed").setAttribute("transform", `matrix(${kx} 0 0 ${ky} ${dx} ${dy})`);
      const move = (tick, k, d, low, size, vertical) => {
        const at = Number(tick.dataset.at);
        const to = at * k + d;
        tick.setAttribute("transform", vertical ? `translate(0 ${to - at})` : `translate(${to - at} 0)`);
        tick.style.display = to < low - 0.5 || to > low + size + 0.5 ? "none" : "";
      };
      for (const tick of frame.querySelectorAll(".tx")) move(tick, kx, dx, plot.left, plot.width, false);
      for (const tick of frame.querySelectorAll(".ty")) move(tick, ky, dy, plot.top, plot.height, true);
    };

    let start = null;
    const box = document.createElementNS(SVG, "rect");
    box.setAttribute("class", "drag");
    const span = (event) => {
      const [x, y] = within(svg, event);
      const { plot } = start;
      const clamp = (value, low, size) => Math.min(Math.max(value, low), low + size);
      const [a, b] = [start.x, clamp(x, plot.left, plot.width)].sort((m, n) => m - n);
      const [c, d] = [start.y, clamp(y, plot.top, plot.height)].sort((m, n) => m - n);
      return [a, c, b - a, d - c];
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      const [x, y] = within(svg, event);
      const plot = plotAt(x, y);
      if (plot) { start = { plot, x, y }; event.preventDefault(); }
    });
    addEventListener("pointermove", (event) => {
      if (!start) return;
      const [x, y, width, height] = span(event);
      for (const [name, value] of Object.entries({ x, y, width, height })) box.setAttribute(name, value);
      svg.append(box);
    });
    addEventListener("pointerup", (event) => {
      if (!start) return;
      const [x, y, width, height] = span(event);
      const { plot } = start;
      start = null;
      box.remove();
      if (width < 8 || height < 8) return;
      const zoom = (k, d, low, size, from, length) => {
        const scale = size / length;
        return [k * scale, (d - from) * scale + low];
      };
      // The axis of tokens or of time is that of all frames of a chart.
      for (const each of plots) {
        [each.kx, each.dx] = zoom(each.kx, each.dx, each.left, each.width, x, width);
        if (each === plot) [each.ky, each.dy] = zoom(each.ky, each.dy, each.top, each.height, y, height);
        apply(each);
      }
    });
    svg.addEventListener("dblclick", () => {
      for (const plot of plots) {
        Object.assign(plot, { kx: 1, dx: 0, ky: 1, dy: 0 });
        apply(plot);
      }
    });
  }

  const button = document.getElementById("theme");
  const root = document.documentElement;
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme:dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
})();
