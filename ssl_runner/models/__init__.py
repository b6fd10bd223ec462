"""Networks: encoders with their preprocessing, heads, batch normalisation, features and the saved encoder.

Datasets and algorithms are unknown here: whatever a model needs to know about the data is passed to its constructor.
"""
