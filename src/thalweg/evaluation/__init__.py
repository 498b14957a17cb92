"""Judging a potential by where its relaxations end: basins, distances, and what differences are worth."""

from __future__ import annotations

from thalweg.evaluation.basins import (
    RULES,
    THRESHOLDS,
    BasinRule,
    Comparison,
    Distance,
    Quench,
    Verdict,
    basin_rule,
)
from thalweg.evaluation.comparison import Improvement, improvement
from thalweg.evaluation.cost import CostOfTuning, cost_record, measure_cost
from thalweg.evaluation.evaluate import evaluate
from thalweg.evaluation.pair_result import PairResult
from thalweg.evaluation.result import Evaluation
from thalweg.evaluation.statistics import (
    McNemar,
    MeanDifference,
    SeedMean,
    bootstrap_difference,
    mcnemar,
    mean_over_seeds,
    wilson_interval,
)

__all__ = [
    "RULES",
    "THRESHOLDS",
    "BasinRule",
    "Comparison",
    "CostOfTuning",
    "Distance",
    "Evaluation",
    "Improvement",
    "McNemar",
    "MeanDifference",
    "PairResult",
    "Quench",
    "SeedMean",
    "Verdict",
    "basin_rule",
    "bootstrap_difference",
    "cost_record",
    "evaluate",
    "improvement",
    "mcnemar",
    "mean_over_seeds",
    "measure_cost",
    "wilson_interval",
]
