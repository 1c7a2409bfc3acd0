"""The lesson on a screen and as a page."""
