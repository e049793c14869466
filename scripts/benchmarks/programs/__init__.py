"""What runs in the measured processes.

``serve.py`` loads one of the other files by its path. Each runs in the environment of the library that it drives,
where this package is not installed, so none imports another one.

A program has ``PACKAGES``, the distributions whose versions it reports, and ``STEPS``: for each kind of step a
function of the case's arrays and options that gives ``(run, collect)``. ``run()`` is what is timed; ``collect``
turns what it returned into named numpy arrays, outside the clock. Where ``indices`` is among them, the rows of
``features`` stand on these sites.
"""
