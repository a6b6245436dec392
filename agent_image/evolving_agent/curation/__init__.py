"""From experience to a dataset: read → choose → scrub → resolve (overlap, duplicates, balance) → emit."""
