"""Programs that run an exported network; each is a module of functions or a class of the same protocol."""
