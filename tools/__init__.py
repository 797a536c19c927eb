"""What `make` calls: execute, compare, check and publish notebooks."""
