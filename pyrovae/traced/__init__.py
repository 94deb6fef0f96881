"""A program's operations as a graph, traced once, checked, and run without Pyro."""
