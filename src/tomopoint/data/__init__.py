"""Reading and writing what lies on disk: the only part that knows file layouts."""
