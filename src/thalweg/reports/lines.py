"""Short answers as lines of text: what is in a set of pairs, what an evaluation found, what verification says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.evaluation.refusals import Refusal
    from thalweg.gradients.verification import Verdict
    from thalweg.structures.describe import Basin, Description, Spread


def description_lines(description: Description) -> list[str]:
    """Return the description of a set of pairs."""
    elements = ", ".join(f"{symbol} {count}" for symbol, count in description.elements.items())
    lines = [
        f"{_count(description.pairs, 'pair')} of {_count(description.parents, 'parent')}",
        f"energies known: {description.energies_known} of {description.pairs} minima",
        f"atoms per structure: {_spread(description.atoms, 0)}; fixed atoms: {description.fixed_atoms or 'none'}",
        f"atoms by element: {elements}",
        f"ΔQ from start to minimum (amu^½ Å): {_spread(description.delta_q, 2)}",
        f"largest displacement of an atom (Å): {_spread(description.largest_displacement, 2)}",
    ]
    for group in description.groups:
        lines.append(f"{group.composition}, {_count(group.pairs, 'pair')} in one cell")
        if group.energy_levels:
            lines.append(f"  basins by energy (levels more than {description.energy_gap} eV apart):")
            lines += [_basin(basin) for basin in group.energy_levels]
        lines.append(
            f"  basins by geometry (matched displacement below {description.distance} Å; copies turned or mirrored "
            "by a symmetry count apart):"
        )
        lines += [_basin(basin) for basin in group.geometric_basins[:12]]
        if len(group.geometric_basins) > 12:
            rest = group.geometric_basins[12:]
            lines.append(f"    and {len(rest)} more with {_count(sum(b.population for b in rest), 'pair')}")
    return lines


def _spread(spread: Spread, digits: int) -> str:
    if spread.least == spread.largest:
        return f"{spread.least:.{digits}f}"
    return f"{spread.least:.{digits}f} to {spread.largest:.{digits}f}, median {spread.median:.{digits}f}"


def _basin(basin: Basin) -> str:
    energy = "energy unknown" if basin.energy is None else f"{basin.energy:.4f} eV"
    spread = "" if not basin.energy_range else f" (within {1000 * basin.energy_range:.1f} meV)"
    return f"    {basin.population:4d} {'pair ' if basin.population == 1 else 'pairs'}  {energy}{spread}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def evaluation_lines(record: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> list[str]:
    """Return an evaluation, beside that of the base where there is one; records as `Evaluation.record` gives them."""
    lines = []
    for name, found in (("base", base), ("model", record)):
        if found is None:
            continue
        low, high = found["basins_interval"]
        lines.append(
            f"{name}: {found['basins_right']} of {found['basins_total']} in the right basin by the "
            f"{found['rule']} rule (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
        )
        sweep = ", ".join(f"{count} at {limit} Å" for limit, count in found["basins_by_threshold"].items())
        lines.append(f"  right by threshold: {sweep}")
        dq = ["–" if found[key] is None else f"{found[key]:.2f}" for key in ("dq_mean", "dq_median")]
        missing = "" if not found["dq_missing"] else f", missing for {found['dq_missing']}"
        lines.append(f"  ΔQ to the minimum (amu^½ Å): mean {dq[0]}, median {dq[1]}{missing}")
        counts = {label.replace("_", " "): count for label, count in found["outcomes"].items() if count}
        outcomes = ", ".join(f"{count} {label}" for label, count in counts.items())
        lines.append(f"  relaxations: {outcomes}; {found['seconds']:.1f} s in all")
    gain = record["against_base"]
    if gain is not None:
        lines.append(
            f"model against base: {gain['basins_gained']} right basins gained, {gain['basins_lost']} lost "
            f"(McNemar p = {gain['mcnemar_p']:.3g}); ΔQ fell for {100 * gain['share_improved']:.0f} % of pairs"
        )
    return lines


def cost_lines(record: Mapping[str, Any] | None, base: Mapping[str, Any] | None = None) -> list[str]:
    """Return errors of labels and the perfect crystal, beside the base's; records as `cost_record` gives them."""
    lines = []
    for name, found in (("base", base), ("model", record)):
        if found is None:
            continue
        if found["errors"] is not None:
            lines.append(f"{name}, {_count(found['errors']['frames'], 'labelled frame')}: {_errors(found['errors'])}")
        if found["crystal"] is not None:
            lines.append(f"{name}, crystal: {_crystal(found['crystal'])}")
    if record is not None and record["reference"] is not None:
        lines.append(f"reference, crystal: {_crystal(record['reference'])}")
    return lines


def _errors(errors: Mapping[str, Any]) -> str:
    if errors["reason"] is not None:
        return str(errors["reason"])
    cosine = "–" if errors["force_cosine"] is None else f"{errors['force_cosine']:.3f}"
    return (
        f"energy RMSE {errors['energy_rmse']:.1f}, MAE {errors['energy_mae']:.1f} meV/atom "
        f"(without the mean of {errors['energy_shift']:.1f}: {errors['energy_shifted_rmse']:.1f}, "
        f"{errors['energy_shifted_mae']:.1f}); force RMSE {errors['force_rmse']:.0f}, MAE {errors['force_mae']:.0f} "
        f"meV/Å, cosine {cosine}"
    )


def _crystal(crystal: Mapping[str, Any]) -> str:
    forms = {
        "lattice_constant": "a {:.4f} Å",
        "cohesive_energy": "cohesive energy {:.3f} eV",
        "c11": "C11 {:.1f}",
        "c12": "C12 {:.1f}",
        "c44": "C44 {:.1f}",
        "c44_unrelaxed": "(unrelaxed {:.1f}) GPa",
    }
    parts = [form.format(crystal[key]) for key, form in forms.items() if crystal[key] is not None]
    return ", ".join(parts + ([] if crystal["reason"] is None else [crystal["reason"]])).replace(", (", " (")


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the table of `thalweg verify`."""
    lines = [f"{'route':<40} {'point':<12} {'structures':>10} {'relative error':>15}  verdict"]
    for verdict in verdicts:
        error = _error(verdict)
        said = "passed" if verdict.passed else "FAILED"
        refused = "" if not verdict.refused else f" ({len(verdict.refused)} refused: {', '.join(verdict.refused)})"
        lines.append(f"{verdict.route:<40} {verdict.point:<12} {verdict.structures:>10} {error:>15}  {said}{refused}")
    asymmetries = [v.asymmetry for v in verdicts if v.asymmetry is not None]
    if asymmetries:
        solvers = sorted({v.solver for v in verdicts if v.solver is not None})
        chosen = f", so the adjoint is solved by {' and '.join(solvers).upper()}" if solvers else ""
        lines.append(f"asymmetry of the force Jacobian: {max(asymmetries):.1e}{chosen}")
    errors = {_error(v) for v in verdicts}
    if _NO_PLATEAU in errors:
        lines.append(
            f"{_NO_PLATEAU}: neighbouring differences disagree, so nothing can be said of the gradient there; "
            "give starts nearer to a minimum"
        )
    if _STILL in errors:
        lines.append(
            f"{_STILL}: symmetry holds X* in place whatever the parameters, so its gradient is zero and nothing was "
            "verified; give starts that relax to a structure of lower symmetry, e.g. with a defect"
        )
    if _NOBODY in errors:
        lines.append(f"{_NOBODY}: no start reached a minimum that can be differentiated; give other starts")
    passed = sum(v.passed for v in verdicts)
    lines.append(f"{passed} of {len(verdicts)} passed: gradients against central differences in float64, bound 1e-6")
    return lines


def refusal_lines(refusals: Sequence[Refusal]) -> list[str]:
    """Return the rows of what had to be refused."""
    lines = []
    for refusal in refusals:
        seen = refusal.lowest_curvature
        curvature = "" if seen is None else f", lowest curvature {seen:.3g} eV/Å²".replace("-", "−")
        said = refusal.reason or "took part"
        verdict = "refused" if refusal.refused else f"NOT REFUSED ({said}, gradient {refusal.leaked:.2g})"
        lines.append(f"{refusal.case}, {refusal.route}: {verdict}{curvature} ({refusal.where})")
    held = sum(refusal.refused for refusal in refusals)
    lines.append(f"{held} of {len(refusals)} refused: cases that have no implicit gradient, made on purpose")
    return lines


_NO_PLATEAU, _NOBODY, _STILL = "no plateau", "none took part", "does not move"


def _error(verdict: Verdict) -> str:
    if verdict.structures == 0:
        return _NOBODY
    if verdict.still:
        return _STILL
    return _NO_PLATEAU if verdict.worst != verdict.worst else f"{verdict.worst:.1e}"
