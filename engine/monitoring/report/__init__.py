"""The page that shows a run: what the run directory tells, charts of it, the page, kept up to date."""
