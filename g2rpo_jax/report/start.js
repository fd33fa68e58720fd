// Draws every section; one that fails says so in its place and leaves the others alone.

for (const [id, show] of [
  [null, showHeader], ["outcome", showOutcome], ["curves", showCurves], ["rollouts", showRollouts],
  ["problems", showProblems], ["config", showConfig], [null, showFoot],
]) {
  try {
    show();
  } catch (error) {
    document.documentElement.dataset.error = `${id || show.name}: ${error}`;
    if (id) body(id).append(h("p", { class: "notice" }, `This section could not be drawn: ${error}`));
  }
}
document.documentElement.dataset.rendered = "true";
