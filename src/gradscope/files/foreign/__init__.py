"""Files of other frameworks, read as data: numbers, and the settings that stand beside them."""
