"""Module that the code of models registered by version 0.1 imports; MLflow keeps that code with them."""

from ms_assets.retrieval.recommender import TOP_K

__all__ = ["TOP_K"]
