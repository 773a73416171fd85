"""One offline page with the evidence for a posterior, for reviewers; and whether such a page was edited or is stale."""

from uqms.report.integrity import ReportCheck, check_report
from uqms.report.report import CredibilityReport, credibility_report

__all__ = ["CredibilityReport", "ReportCheck", "check_report", "credibility_report"]
