"""Big jobs: many scans through one backbone, resumable, in bounded memory."""
