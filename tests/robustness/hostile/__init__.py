"""Bad input of every kind that a data set, preprocessed volumes or weights may bring.

`python -m tests.robustness.hostile` counts what held.
"""
