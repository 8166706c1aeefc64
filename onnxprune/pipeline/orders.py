# SPDX-License-Identifier: Apache-2.0
"""The order in which channels go: where inputs can tell, the best of several.

What one channel saves of a latency is a guess about single layers, made from cuts of the whole network. An order that trusts a
wrong guess starves layers. So a latency is met in three orders, and a quick fit of each cut shows which one to take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onnxprune.effort import Effort
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.options import Options
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.goal import Goal
from onnxprune.selection.knapsack import knapsack
from onnxprune.selection.strategy import Strategy, by_work, evenly

Orders = Mapping[str, Strategy]
"""What an order is called in reports -> how limits are met by it."""


def orders_of(options: Options, usual: Strategy, goal: Goal, judge: Evaluator | None) -> Orders:
    """The orders in which channels may go; `usual` is the first one, unless the options state another."""
    selection = options.selection
    if selection.widths == "knapsack":
        return {"all at once": knapsack}
    timed = any(budget.learned for budget in goal.budgets)
    if judge is None or not timed or not options.calibrated or selection.scope != "global":
        return {"in order": usual}
    return {"by latency": usual, "by MACs": by_work, "evenly": evenly}


def best_order(
    orders: Orders, cut: Callable[[Strategy], Decision], loss: Callable[[Decision], float], effort: Effort
) -> Decision:
    """The best cut of several orders, and a note that compares them; with a single order, its cut.

    Args:
        orders: as from `orders_of`.
        cut: the cut by one of them.
        loss: what a cut loses on held-out samples after a quick fit.
        effort: the time that there is; with less, fewer orders are compared.
    """
    if len(orders) == 1:
        [(order, strategy)] = orders.items()
        return replace(cut(strategy), order=order)
    found = dict[str, tuple[float, float, Decision]]()
    for _, order in zip(effort.steps("orders", 1, len(orders)), orders, strict=False):
        decision = cut(orders[order])
        found[order] = max(decision.fullest - 1, 0.0), loss(decision), decision
    best = min(found, key=lambda order: found[order][:2])
    lost = ", ".join(f"{order} {loss:.3f}" for order, (_, loss, _) in found.items())
    note = f"order of channels: {best}; loss on held-out samples after a quick fit: {lost}"
    decision = found[best][2]
    return replace(decision, order=best, notes=(*decision.notes, note) if len(found) > 1 else decision.notes)
