"""Settings: declared once in `settings`, read by `parse`, completed by `resolve`, shown by `table`."""
