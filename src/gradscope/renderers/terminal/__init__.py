"""The screens of a terminal: `analyze`, `compare`, `check`, and the parts that they are put together from."""
