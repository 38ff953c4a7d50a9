"""Functions that a config names by dotted path."""


def falling(update):
    return max(0.0, 1.0 - update / 250)


def below_zero(update):
    return 1.0 - update / 500


def shrinking(update):
    return 0.99 if update < 200 else 1.0


NOT_A_FUNCTION = 3


def not_a_number(update):
    return float("nan")
