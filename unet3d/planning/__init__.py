"""From what the user set to a plan that can run here, or to everything that is wrong with it."""
