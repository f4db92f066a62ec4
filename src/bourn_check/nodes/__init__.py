"""Nonlinear functions beyond the piecewise linear ones of one variable, one family a file: facts, and how files state them.

Each file is complete: what bounds rest on, and the rules by which its operators are read.  Which function within an operator is
meant when a certificate speaks of one is said by its part: ``TENSOR.PART``, where TENSOR is what the operator computes.
"""

from bourn_check.nodes import composed, exponentials, extremes, gated, powers, quotients, sigmoids, softmax, waves

OTHERS = {
    operator: rule
    for family in (composed, exponentials, extremes, gated, powers, quotients, sigmoids, softmax, waves)
    for operator, rule in family.RULES.items()
}
