"""Short answers as lines of text: what is in a set of pairs, what an evaluation found, what verification says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.gradients.verification import Verdict
    from thalweg.structures.describe import Basin, Description, Spread


def description_lines(description: Description) -> list[str]:
    """Return the description of a set of pairs."""
    elements = ", ".join(f"{symbol} {count}" for symbol, count in description.elements.items())
    lines = [
        f"{description.pairs} pairs of {description.parents} parents",
        f"energies known: {description.energies_known} minima",
        f"atoms per structure: {_spread(description.atoms, 0)}; fixed atoms: {description.fixed_atoms}",
        f"atoms by element: {elements}",
        f"ΔQ from start to minimum (amu^½ Å): {_spread(description.delta_q, 2)}",
        f"largest displacement of an atom (Å): {_spread(description.largest_displacement, 2)}",
    ]
    for group in description.groups:
        lines.append(f"{group.composition}, {group.pairs} pairs in one cell")
        if group.energy_levels:
            lines.append(f"  basins by energy (levels more than {description.energy_gap} eV apart):")
            lines += [_basin(basin) for basin in group.energy_levels]
        lines.append(
            f"  basins by geometry (matched displacement below {description.distance} Å; "
            "copies turned by a symmetry count apart):"
        )
        lines += [_basin(basin) for basin in group.geometric_basins[:12]]
        if len(group.geometric_basins) > 12:
            lines.append(f"    and {len(group.geometric_basins) - 12} more")
    return lines


def _spread(spread: Spread, digits: int) -> str:
    if spread.least == spread.largest:
        return f"{spread.least:.{digits}f}"
    return f"{spread.least:.{digits}f} to {spread.largest:.{digits}f}, median {spread.median:.{digits}f}"


def _basin(basin: Basin) -> str:
    energy = "energy unknown" if basin.energy is None else f"{basin.energy:.4f} eV"
    spread = "" if not basin.energy_range else f" (within {1000 * basin.energy_range:.1f} meV)"
    return f"    {basin.population:4d} pairs  {energy}{spread}"


def evaluation_lines(record: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> list[str]:
    """Return an evaluation, beside that of the base where there is one; records as `Evaluation.record` gives them."""
    lines = []
    for name, found in (("base", base), ("model", record)):
        if found is None:
            continue
        low, high = found["basins_interval"]
        lines.append(
            f"{name}: {found['basins_right']} of {found['basins_total']} in the right basin by the rule "
            f"{found['rule']} (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
        )
        sweep = ", ".join(f"{limit} Å: {count}" for limit, count in found["basins_by_threshold"].items())
        lines.append(f"  by threshold: {sweep}")
        dq = ["–" if found[key] is None else f"{found[key]:.2f}" for key in ("dq_mean", "dq_median")]
        missing = "" if not found["dq_missing"] else f", missing for {found['dq_missing']}"
        lines.append(f"  ΔQ (amu^½ Å): mean {dq[0]}, median {dq[1]}{missing}")
        outcomes = ", ".join(f"{label} {count}" for label, count in found["outcomes"].items() if count)
        lines.append(f"  outcomes: {outcomes}; {found['seconds']:.1f} s")
    gain = record["against_base"]
    if gain is not None:
        lines.append(
            f"against base: {gain['basins_gained']} pairs gained, {gain['basins_lost']} lost "
            f"(McNemar p = {gain['mcnemar_p']:.3g}); ΔQ fell for {100 * gain['share_improved']:.0f} % of pairs"
        )
    return lines


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the table of `thalweg verify`."""
    lines = [f"{'route':<40} {'point':<12} {'structures':>10} {'relative error':>15}  verdict"]
    for verdict in verdicts:
        error = "no plateau" if verdict.worst != verdict.worst else f"{verdict.worst:.1e}"
        said = "passed" if verdict.passed else "FAILED"
        refused = "" if not verdict.refused else f" ({len(verdict.refused)} refused: {', '.join(verdict.refused)})"
        lines.append(f"{verdict.route:<40} {verdict.point:<12} {verdict.structures:>10} {error:>15}  {said}{refused}")
    asymmetries = [v.asymmetry for v in verdicts if v.asymmetry is not None]
    if asymmetries:
        lines.append(f"asymmetry of the force Jacobian: {max(asymmetries):.1e}")
    passed = sum(v.passed for v in verdicts)
    lines.append(f"{passed} of {len(verdicts)} passed: gradients against central differences in float64, bound 1e-6")
    return lines
