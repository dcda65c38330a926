"""How fast AKGP trains: measurements beside what others do, in the same minutes of the same machine."""
