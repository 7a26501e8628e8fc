"""How published data sets name their files: folder in, files of each subject out.

Begin with `matching.match_files`; each other module knows two or more conventions.
"""
