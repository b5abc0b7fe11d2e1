"""What the experiments are made of: runs, statistics, tables, figures, the report."""
