"""Ablations, controls and sweeps: named override sets in params/ablations.

A set is data: no loop of its own trains anything. The batch expands it, `ablation_report` reads what came out.
"""

from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import PRESETS, ROOT, Settings, read_yaml, variant_fault

FOLDER = ROOT / "params" / "ablations"


class Ablation(Settings):
    """One file of params/ablations: a method, and its overrides by the name of the variant.

    presets: {preset: {variant: overrides}}, what a variant changes besides in that preset.
    """

    method: str
    variants: dict[str, dict]
    presets: dict[str, dict[str, dict]] = {}

    def in_preset(self, preset):
        """The variants as they run in a preset: {name: overrides}."""
        more = self.presets.get(preset, {})
        return {name: {**overrides, **more.get(name, {})} for name, overrides in self.variants.items()}


def ablation_names():
    """The sets there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_ablation(name):
    """Read one set. Raises: UserError for an unknown name, an empty set, or a variant that cannot be one."""
    check_name(name, ablation_names(), "ablation")
    path = FOLDER / f"{name}.yaml"
    found = Ablation.build(read_yaml(path), path.name)
    if not found.variants:
        raise UserError(f"{path.name}: variants is empty; name at least one set of overrides.")
    for variant, overrides in found.variants.items():
        fault = "is taken; choose another name" if variant == "default" else variant_fault(variant)
        if fault:
            raise UserError(f"{path.name}: the variant {variant!r} {fault}.")
        if not overrides:
            raise UserError(f"{path.name}: the variant {variant!r} overrides nothing; name the settings it changes.")
    for preset, changed in found.presets.items():
        check_name(preset, PRESETS, f"preset in {path.name}")
        for variant in changed:
            check_name(variant, tuple(found.variants), f"variant under presets in {path.name}")
    return found
