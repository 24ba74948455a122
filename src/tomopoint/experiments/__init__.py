"""One condition at a time: variants of a recipe trained alike and compared, and a search over its options."""
