"""A sweep as a phase diagram, tables and data: render(sweep, view) -> str | bytes."""
