-- Run once, when the volume of PostgreSQL is new: MLflow's tables have names that Dagster's have too.
CREATE DATABASE mlflow;
