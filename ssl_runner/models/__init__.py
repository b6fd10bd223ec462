"""Networks: encoders with their preprocessing, heads, batch normalisation, features, the saved encoder.

No dataset and no algorithm: what a model needs to know of the data is passed to its constructor.
"""
