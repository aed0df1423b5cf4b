"""Training, evaluation and prediction of Inception networks: what `engine/train.py` and its sisters are made of."""
