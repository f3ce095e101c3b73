"""What of the manual is generated: man pages, shell completions and the reference of the commands, from the parsers
themselves; and the example pictures of the documentation, by the thumbnailer itself.

    tools/manual        writes all of it anew

What it writes is part of the repository, so that a wheel can be built without importing what it holds, and so that the
reference can be read on a code host. A test compares.
"""
