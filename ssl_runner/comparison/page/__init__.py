"""The report as a web page: one file that holds everything, for a browser without a network.

Tables and texts are made here; charts are drawn in the browser by Observable Plot, from data inside the file.
"""

from ssl_runner.comparison.page.writing import write

__all__ = ["write"]
