"""Training of small classifiers that can be certified: one loop, four losses."""
