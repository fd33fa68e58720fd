"""What is trained on, and what is drawn: responses, rows, prompts and rows of earlier steps.

    responses.SELECTIONS   which of a prompt's responses train
    rows.CRITERIA          which sampled rows carry signal
    prompts.CURRICULA      which prompts are drawn
    replay.REPLAYS         which rows of earlier steps are trained on again

All of it is decided on the host, in NumPy, between sampling and the update: nothing here is
compiled, so nothing here is a rule for a device. Every process of a run decides the same.
"""
