"""From a dataset to a model: triggers → one resumable, exactly-once run on a backend → report."""
