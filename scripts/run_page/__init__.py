"""``sparseconv run --html``: one page with everything in it, which a browser opens without a network."""
