"""Which known class a method's own network sees in each pool image, for methods that replace f_close's classifier.

OSCR and closed accuracy ask whether a known image is told rightly. For most methods f_close tells it, and their scores
only say whom to believe; the methods of `REPLACES` train another classifier, and it is theirs that counts.
"""

import numpy as np
import pandas as pd

from fer_openset import atomic
from fer_openset.errors import UserError

PREDICTIONS = "predictions.csv"
REPLACES = ("eow", "proser", "dias")


def write_predictions(task, logits):
    """Write `predictions.csv` (sample_id, predicted) into the task's folder: the known class of the largest logit.

    Shapes: logits tensor (M, K or more), rows as in `task.pool_ids`; columns beyond the known classes do not count.
    """
    known = logits[:, : len(task.known_classes)].argmax(1).cpu().numpy()
    names = np.array([*task.known_classes])[known]
    atomic.write_csv(task.folder / PREDICTIONS, pd.DataFrame({"sample_id": task.pool_ids, "predicted": names}))


def read_predictions(task):
    """What `write_predictions` left: int64 array (M,), 0..K-1, in the order of `task.pool_ids`; None without a file.

    Raises: UserError for a file that does not hold one known class for each pool image.
    """
    path = task.folder / PREDICTIONS
    if not path.exists():
        return None
    try:
        named = pd.read_csv(path, dtype="str", keep_default_na=False).set_index("sample_id")["predicted"]
        numbers = pd.Index(task.known_classes).get_indexer(named.loc[task.pool_ids])
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not the predictions of this pool ({error!r}); run the method again.") from None
    if len(numbers) != len(task.pool_ids) or (numbers < 0).any():
        raise UserError(f"{path}: not one known class for each pool image; run the method again.")
    return numbers.astype(np.int64)
