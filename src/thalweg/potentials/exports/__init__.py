"""Our potentials in other people's programs: one file a program."""
