"""What is wrong with a dataset: every image examined, the findings as text and as a page."""
