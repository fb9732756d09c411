"""What a run says afterwards: tables, figures, one page, and the live display. Trains nothing."""

from fedlab.report.result import Result

__all__ = ["Result"]
