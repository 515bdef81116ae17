"""Overlap and surface metrics, summaries."""

from autoseg.evaluation.case_metrics import ClassMetrics, evaluate_case
from autoseg.evaluation.summary import CaseEvaluation, EvaluationSummary, write_summary

__all__ = ["CaseEvaluation", "ClassMetrics", "EvaluationSummary", "evaluate_case", "write_summary"]
