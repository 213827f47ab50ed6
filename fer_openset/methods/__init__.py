"""The table of methods: one line each, `id: module:settings class:function`.

A method is one public function `(task, settings) -> open_score`, a Series indexed by the pool's sample ids; larger
means more open. To add one: its file here, its params/methods/ID.yaml, its line below.
"""

from importlib import import_module

from fer_openset.labels import check_name
from fer_openset.settings import ROOT, load

METHODS = {
    "msp": "posthoc:PosthocSettings:msp",
    "maxlogit": "posthoc:PosthocSettings:maxlogit",
    "energy": "posthoc:EnergySettings:energy",
    "entropy": "posthoc:PosthocSettings:entropy",
    "gen": "posthoc:GenSettings:gen",
    "klmatching": "posthoc:PosthocSettings:klmatching",
    "openmax": "posthoc:OpenMaxSettings:openmax",
    "odin": "posthoc_images:OdinSettings:odin",
    "mahalanobis": "posthoc_features:PlainSettings:mahalanobis",
    "rmd": "posthoc_features:PlainSettings:rmd",
    "knn": "posthoc_features:NeighbourSettings:knn",
    "nnguide": "posthoc_features:NeighbourSettings:nnguide",
    "vim": "posthoc_features:VimSettings:vim",
    "she": "posthoc_features:PlainSettings:she",
    "dice": "posthoc_features:DiceSettings:dice",
    "react": "posthoc_features:ShapingSettings:react",
    "ash": "posthoc_features:AshSettings:ash",
    "scale": "posthoc_features:ShapingSettings:scale",
    "fdbd": "posthoc_features:PlainSettings:fdbd",
    "self_confidence": "label_noise:SelfConfidenceSettings:self_confidence",
    "disagreement": "label_noise:DisagreementSettings:disagreement",
    "loss_average": "label_noise:LossAverageSettings:loss_average",
    "pseudo_label_ce": "pseudo_label_ce:PseudoLabelCeSettings:pseudo_label_ce",
    "noisy_label": "noisy_label:NoisyLabelSettings:noisy_label",
    "noisy_label_online": "noisy_label_online:NoisyLabelSettings:noisy_label_online",
    "eow": "eow:EowSettings:eow",
    "proser": "proser:ProserSettings:proser",
    "dias": "dias:DiasSettings:dias",
    "pool_novelty": "pool_novelty:PoolNoveltySettings:pool_novelty",
    "pool_novelty_online": "pool_novelty:PoolNoveltySettings:pool_novelty_online",
    "oracle": "pool_novelty:PoolNoveltySettings:oracle",
}
# Forms of one method that share its settings, so that they differ in nothing else.
SAME_SETTINGS = {"pool_novelty_online": "pool_novelty", "oracle": "pool_novelty", "noisy_label_online": "noisy_label"}
# Reads the pool's true labels: the upper bound, never ranked.
ORACLE = "oracle"
# These only read f_close's outputs, nothing is trained: seconds on one core (odin: a pass over the pool's images).
POSTHOC = (
    "msp", "maxlogit", "energy", "entropy", "gen", "klmatching", "openmax", "odin", "mahalanobis", "rmd", "knn",
    "nnguide", "vim", "she", "dice", "react", "ash", "scale", "fdbd", "pseudo_label_ce",
)  # fmt: skip


def params_file(method):
    """The YAML file that holds a method's settings."""
    return ROOT / "params" / "methods" / f"{SAME_SETTINGS.get(method, method)}.yaml"


def method_settings(method, preset, overrides=None):
    """Settings of a method for a preset. Raises: UserError for an unknown method, key or value."""
    module, settings, _ = _parts(method)
    return load(getattr(module, settings), params_file(method), preset, overrides)


def reads_true_labels(method, overrides):
    """Whether a run may see the pool's true labels: the oracle, and settings whose name begins with `oracle_`."""
    return method == ORACLE or any(str(key).startswith("oracle_") for key in overrides)


def run_method(method, task, settings):
    """Open scores of the pool: Series indexed by sample id, float64, larger = more open."""
    module, _, function = _parts(method)
    scores = getattr(module, function)(task, settings)
    return scores.loc[task.pool_ids].astype("float64").rename("open_score")


def _parts(method):
    check_name(method, tuple(METHODS), "method")
    module, settings, function = METHODS[method].split(":")
    return import_module(f"fer_openset.methods.{module}"), settings, function
