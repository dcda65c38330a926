"""What is said of a run: its metrics on disk, the table, and what went less well than it should.

Nothing here measures. `akgp.reporting.page` writes the page.
"""
