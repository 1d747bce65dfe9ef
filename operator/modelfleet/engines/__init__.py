"""One row per inference engine: what its server calls things. Data, no behaviour."""
