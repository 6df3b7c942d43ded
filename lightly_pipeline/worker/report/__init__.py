"""The report: what the selection did, as figures, plots, and a page that a person understands at a glance."""
