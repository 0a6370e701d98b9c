"""The benchmark: every stage against what people use today, after checking for equal work."""
