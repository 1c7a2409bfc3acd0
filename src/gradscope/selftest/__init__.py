"""gradscope held against answers that are known exactly: the cases by topic, their table, and the run."""
