"""Examples: a real model, real data, and jobs as a user would write them."""
