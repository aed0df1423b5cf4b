"""The options of a run: their tree, how they are read and checked, what makes two runs the same, how a batch is shared."""
