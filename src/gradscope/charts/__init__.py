"""Pictures of a report, by topic: each chart is a plain function from a `Report` to Altair charts."""
