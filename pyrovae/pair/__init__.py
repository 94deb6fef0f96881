"""A pair of Pyro programs: running it row by row, and what must hold of it.

Everything that knows of Pyro's traces lives here. Nothing here knows of training or of estimates.
"""
