"""Installing on a machine without Kubernetes: what is written where, checked before, undone after.

Every command may be repeated: run again, it completes what was interrupted, and changes nothing that is right.
"""
