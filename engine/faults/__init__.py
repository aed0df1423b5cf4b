"""What goes wrong, and how a process ends: errors, exit status, a stop that is asked for, hung ranks."""
