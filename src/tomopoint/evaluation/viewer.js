// Scrolls the slabs of each run: slider, and keys while the picture has the focus.
// Switching runs, layers, classes and kinds needs no script; style rules do it.
for (const run of document.querySelectorAll(".run")) {
  const stage = run.querySelector(".stage");
  const slider = run.querySelector(".slider");
  const said = run.querySelector("output");
  const slabs = [...stage.querySelectorAll("img")];
  const marks = [...stage.querySelectorAll("use")].map((mark) => ({ mark, z: Number(mark.dataset.z) }));
  const reach = Number(run.dataset.reach);

  const show = (index) => {
    const shown = Math.max(0, Math.min(slabs.length - 1, index));
    slabs.forEach((slab, place) => { slab.hidden = place !== shown; });
    const middle = Number(slabs[shown].dataset.z);
    for (const { mark, z } of marks) mark.classList.toggle("out", Math.abs(z - middle) > reach);
    slider.value = shown;
    slider.setAttribute("aria-valuetext", slabs[shown].alt);
    said.textContent = slabs[shown].alt;
  };

  slider.hidden = slabs.length < 2;
  slider.addEventListener("input", () => show(slider.valueAsNumber));
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5,
    Home: -slabs.length, End: slabs.length };
  stage.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(slider.valueAsNumber + steps[event.key]);
  });
}
