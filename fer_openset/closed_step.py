"""f_close's step of a run: trained once, kept with its record, and handed on only to what it was trained for."""

from fer_openset import runs
from fer_openset.closed_set import closed_set_settings, data_digest, load_model, train_closed_set
from fer_openset.errors import UserError
from fer_openset.fit import training_seconds
from fer_openset.pretrained import say_if_transductive


def closed_set_folder(step, settings):
    """Where f_close of this step goes.

    Raises: UserError when overrides would replace a finished f_close that has pseudo labels and scores beside it.
    """
    folder = step.folder.closed_set
    changed = _changed(runs.load_record(folder), settings) if runs.is_done(folder) else ""
    if step.parameters.overrides and changed:
        raise UserError(f"{folder}: f_close is trained already, with other settings ({changed}), and what was made "
                        "with it lies beside it. Delete the seed's folder, or set FER_OPENSET_RESULTS to another "
                        "place.")  # fmt: skip
    return folder


def _changed(record, settings):
    """What these settings change in those of f_close's record: "" for nothing."""
    done, asked = record["settings"]["closed_set"], settings.model_dump(mode="json")
    return ", ".join(f"{key}: {done.get(key)}, not {asked[key]}" for key in asked if done.get(key) != asked[key])


def _training_images(dataset, protocol):
    return data_digest(dataset, dataset.rows(protocol.train.index))


def save_closed_set(step, settings, history):
    """Mark f_close as trained. Returns: its record."""
    folder, last = step.folder.closed_set, history.to_dict("records")[-1]
    seconds = round(max(step.seconds(), training_seconds(folder)), 1)  # the latter after a resume
    record = step.record(
        {"closed_set": settings}, history=last, data=_training_images(step.dataset, step.protocol), seconds=seconds
    )
    runs.save_record(folder, record)
    return record


def need_closed_set(step):
    """f_close of this step's folder; in the smoke preset it is trained if it is not there.

    Says so if it was trained with other settings than the preset's. Raises: UserError when it has not been trained, or
    for other classes or other images.
    """
    folder = step.folder.closed_set
    if step.parameters.preset == "smoke" and not runs.is_done(folder):
        settings = closed_set_settings("smoke")
        _, history = train_closed_set(step.dataset, step.protocol, settings, step.device, step.parameters.seed, folder)
        save_closed_set(step, settings, history)
    record = runs.load_record(folder)
    changed = _changed(record, closed_set_settings(step.parameters.preset))
    if changed:
        print(
            f"f_close was not trained with the settings of the preset {step.parameters.preset} ({changed})", flush=True
        )
    say_if_transductive("f_close", record.get("weights", {}))
    model = load_model(folder, step.device)
    check_same_data(folder, model.classes, record, step.dataset, step.protocol)
    return model


def check_same_data(folder, classes, record, dataset, protocol):
    """Compare what f_close of this folder was trained for, `classes` and its record, with a dataset and protocol.

    Raises: UserError for other known classes or other training images.
    """
    if classes != protocol.known_classes:
        raise UserError(f"{folder}: this f_close knows {', '.join(classes)}, but the known classes are "
                        f"{', '.join(protocol.known_classes)}; train f_close again.")  # fmt: skip
    if record.get("data") not in (None, _training_images(dataset, protocol)):
        raise UserError(f"{folder}: the training images of {dataset.name} are no longer those that f_close was "
                        "trained on; delete the seed's folder and run it again.")  # fmt: skip
