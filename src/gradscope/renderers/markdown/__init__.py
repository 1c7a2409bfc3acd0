"""Markdown, as a comment on a pull request shows it."""
