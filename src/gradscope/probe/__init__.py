"""Does it learn at that lag? Short trainings of copies of a model, beside a twin that is known to learn."""
