"""What a sweep leaves in its folder: results.csv, table.md, curves.png."""

from pathlib import Path

from g2rpo_jax.sweep import picture, results
from g2rpo_jax.sweep.plan import Plan


def conclude(plan: Plan, out: Path) -> str:
    """Writes the three files of the cells that are finished so far; returns the last words."""
    cells = plan.cells(out)
    found = results.collect(cells)
    results.write_csv(out / "results.csv", plan, found)
    table = results.table(plan, found)
    (out / "table.md").write_text(table)
    if found:
        picture.draw(out / "curves.png", found)
    missing = [f"missing  {cell.name}" for cell in cells if not results.finished(cell)]
    shown = [f"curves   {out}/curves.png"] if found else []
    where = [f"numbers  {out}/results.csv, table.md", *shown, f"runs     {out}/cells/ARM/seed-N"]
    return "\n".join([table, *missing, *where])
