"""What several runs say together: runs read, grouped by setting, compared with statistics, as tables and as a page.

Nothing here trains or evaluates, and nothing needs torch.
"""
