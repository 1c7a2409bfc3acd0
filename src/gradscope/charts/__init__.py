"""Pictures of a report: one file per chart, each a plain function from a `Report` to Altair charts."""
