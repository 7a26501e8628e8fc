"""Data sets: which files belong to which subject, the split, and checks of the data.

Begin with `find.find_subjects`. `layouts` knows how data sets name their files, `splits` divides
subjects into training, validation and test, `checks` lists what is wrong, `reading` prepares one
subject.
"""
