"""The report: one object of everything that was run, written as JSON, Markdown and a page."""
