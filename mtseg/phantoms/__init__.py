"""Synthetic scans with exact labels, for tests and demonstrations.

Begin with `scanner.make_phantom`. `shapes` has the geometric building blocks; `brain`, `breast` and
`cta` each describe the anatomy of one task.
"""
