"""From a structure to a picker: simulate, train, validate, export and judge, in one command."""
