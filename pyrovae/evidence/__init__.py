"""Row-wise estimates of log p(x) and of its bounds, each with its error, and models compared by them."""
