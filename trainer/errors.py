"""What goes wrong through the user's doing, told in one screen."""


class ConfigError(ValueError):
    """A config, a file or a run that cannot work as it is. The message says where, why and what to do."""


class SaveError(RuntimeError):
    """A checkpoint or the metrics could not be written. The message says what is there still."""


def missing_extra(what: str, package: str, extra: str) -> ConfigError:
    """Return the error that `what` needs an optional `package`, which `extra` brings."""
    return ConfigError(f"{what} needs {package}, which is not installed. Run: pip install 'innerstep[{extra}]'")
