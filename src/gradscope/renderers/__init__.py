"""Report in, string out: one module per format, each with `render(report, view)`. None of them prints."""
