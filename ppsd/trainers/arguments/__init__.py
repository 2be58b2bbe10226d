"""Every flag, its default and its meaning. Names are those of the public recipes."""

from ppsd.trainers.arguments.checks import check_arguments
from ppsd.trainers.arguments.data import DataArguments
from ppsd.trainers.arguments.model import ModelArguments
from ppsd.trainers.arguments.recipe_variables import RECIPE_VARIABLES, recipe_defaults
from ppsd.trainers.arguments.training import MEANINGLESS, SECRETS, SDTrainingArguments

__all__ = [
    "MEANINGLESS",
    "RECIPE_VARIABLES",
    "SECRETS",
    "DataArguments",
    "ModelArguments",
    "SDTrainingArguments",
    "check_arguments",
    "recipe_defaults",
]
