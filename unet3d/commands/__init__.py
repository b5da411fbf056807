"""What `./run_model.sh` does: one file or folder a verb."""
