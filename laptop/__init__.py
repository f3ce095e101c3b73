"""`make run`: the appliance on one's own machine, for trying it out and for working on it."""
