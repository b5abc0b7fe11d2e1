"""The machinery of the experiments: runs, statistics, tables, figures, the report."""
