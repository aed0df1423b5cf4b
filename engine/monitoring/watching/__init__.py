"""The live page of one or several runs, served on this machine: `python engine/watch.py RUN...`."""
