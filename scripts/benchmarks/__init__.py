"""The engine beside its peers: inputs, programs in their own processes, alternating rounds, checks, report."""
