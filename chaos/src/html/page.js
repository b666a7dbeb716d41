(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // The numbers of the time line under the pointer.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const plot of document.querySelectorAll("svg.timeline")) {
    const data = JSON.parse(plot.closest("section").querySelector("script.series").textContent);
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((k) => Number(plot.dataset[k]));
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", top);
    cross.setAttribute("y2", bottom);
    cross.style.display = "none";
    plot.append(cross);
    const leave = () => {
      tip.hidden = true;
      cross.style.display = "none";
    };
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
      const count = data.max.length;
      const index = Math.floor(((at.x - left) / (right - left)) * count);
      if (index < 0 || index >= count || at.y < top || at.y > bottom) return leave();
      const from = (data.from + index * data.every) / 1000;
      const lines = [`${from.toFixed(2)} s`];
      let sum = 0;
      for (const kind of data.alive) {
        sum += kind.count[index];
        lines.push(`${kind.cohort}: ${kind.count[index]}`);
      }
      lines.splice(1, 0, `${sum} connections alive`);
      lines.push(`silence: p99 ${data.p99[index]} ms, longest ${data.max[index]} ms`);
      // What is drawn there says more.
      const title = event.target.querySelector && event.target.querySelector("title");
      if (title && event.target !== plot) lines.push("", title.textContent);
      tip.textContent = lines.join("\n");
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.min(event.clientX + 16, innerWidth - box.width - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 16, innerHeight - box.height - 8)}px`;
      cross.setAttribute("x1", at.x);
      cross.setAttribute("x2", at.x);
      cross.style.display = "";
    });
  }
})();
