"""The three counseling stages behind ESConv (paper, appendix A.3; Hill's Helping Skills)."""

from enum import StrEnum


class CounselingStage(StrEnum):
    """A stage of a support conversation, in the usual order."""

    EXPLORATION = "Exploration"
    COMFORTING = "Comforting"
    ACTION = "Action"

    @property
    def definition(self) -> str:
        """What the supporter does in this stage."""
        return {
            CounselingStage.EXPLORATION: "find out together what the problem is",
            CounselingStage.COMFORTING: "show understanding and give comfort",
            CounselingStage.ACTION: "help the seeker towards a next step",
        }[self]
