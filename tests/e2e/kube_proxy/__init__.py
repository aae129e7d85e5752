"""Our Services against kube-proxy's, case for case: what a client saw here and there, and why where it differs.

`cases` says what is tried, `probe` tries it from inside a pod or a host, `twin` and `ours` are the two sides, and
`differences` explains what may differ. `python -m tests.e2e.kube_proxy` runs all of it and prints the tables.
"""
