"""Model cards: what is known of a model, for people and for the Hugging Face hub."""

from .card import CARD, CURVE, Card, card_files
from .origin import Origin, find_origin

__all__ = ["CARD", "CURVE", "Card", "Origin", "card_files", "find_origin"]
