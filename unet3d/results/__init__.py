"""What is known of a run and how it is told: record, results files, console, report."""
