"""Reports of a run: its metrics on disk, the table, the page, and findings on what should be better.

Nothing here measures.
"""
