"""The sections of the report: every module here defines one ``SECTION``."""
