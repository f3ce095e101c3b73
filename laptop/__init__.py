"""`make run`: the appliance on a developer's machine, to try it out and to work on it."""
