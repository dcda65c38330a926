"""Input and output: file systems and stores, atomic writes, errors and tables as text."""
