"""Graph-based music recommendation on the Yandex Yambda dataset, as Dagster assets."""
