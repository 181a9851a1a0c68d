"""What is told of runs to MLflow: first written beside the run (journal.py), then brought to a server (uploads.py)."""
