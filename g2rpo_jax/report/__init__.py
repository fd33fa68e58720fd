"""What people look at: the sample log, the table and the curves at the end, the page of a run."""

from g2rpo_jax.report.ending import closing, curves, table
from g2rpo_jax.report.page import write_page
from g2rpo_jax.report.samplelog import SampleLog, write_json

__all__ = ["SampleLog", "closing", "curves", "table", "write_json", "write_page"]
