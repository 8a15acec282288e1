"""Extras of the package, and what is said where a setting asks for one that is not installed."""


def missing(found: str, extra: str, error: ModuleNotFoundError) -> str:
    """Message on what was found of a setting, the extra that it needs, and the error of the import that failed."""
    return (
        f"{found}, for which the package {error.name} is missing; install the extra: pip install 'ms_assets[{extra}]'"
    )
