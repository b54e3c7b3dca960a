"""Table 2 of the paper: what its 14 evaluators said of ReSyncED, to stand beside one's own numbers.

Some of the paper's scores lie below 1 although its scale is said to go from 1 to 5: compare orders and distances, not
levels.
"""

from dataclasses import dataclass

from lipsmith.study.folder import PREFERENCE


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of table 2; None where the paper has a dash. `preference` is a share, 0 to 1."""

    method: str
    group: str
    lse_d: float
    lse_c: float
    fid: float | None
    sync: float
    visual: float
    overall: float | None
    preference: float | None

    def value(self, question: str) -> float | None:
        """The row's number for a question of the study."""
        values = {
            "sync": self.sync,
            "visual": self.visual,
            "overall": self.overall,
            PREFERENCE: self.preference,
        }
        return values[question]


TABLE_2 = (
    PaperRow("Unsynced", "Dubbed", 12.63, 0.896, None, 0.21, 4.81, 3.07, 0.0315),
    PaperRow("Speech2Vid", "Dubbed", 14.76, 1.121, 19.31, 1.14, 0.93, 0.84, 0.0),
    PaperRow("LipGAN", "Dubbed", 10.61, 2.857, 12.87, 2.98, 3.91, 3.45, 0.0235),
    PaperRow("Wav2Lip", "Dubbed", 6.843, 7.265, 15.65, 4.13, 3.87, 4.04, 0.343),
    PaperRow("Wav2Lip + GAN", "Dubbed", 7.318, 6.851, 11.84, 4.08, 4.12, 4.13, 0.602),
    PaperRow("Unsynced", "Random", 17.12, 2.014, None, 0.15, 4.56, 2.98, 0.0324),
    PaperRow("Speech2Vid", "Random", 15.22, 1.086, 19.98, 0.87, 0.79, 0.73, 0.0),
    PaperRow("LipGAN", "Random", 11.01, 3.341, 14.60, 3.42, 3.77, 3.57, 0.0316),
    PaperRow("Wav2Lip", "Random", 6.691, 8.220, 14.47, 4.24, 3.68, 4.01, 0.291),
    PaperRow("Wav2Lip + GAN", "Random", 7.066, 8.011, 13.12, 4.18, 4.05, 4.15, 0.645),
    PaperRow("Unsynced", "TTS", 16.89, 2.557, None, 0.11, 4.67, 3.32, 0.0832),
    PaperRow("Speech2Vid", "TTS", 14.39, 1.471, 17.96, 0.76, 0.71, 0.69, 0.0),
    PaperRow("LipGAN", "TTS", 10.90, 3.279, 11.91, 2.87, 3.69, 3.14, 0.0164),
    PaperRow("Wav2Lip", "TTS", 6.659, 8.126, 12.77, 3.98, 3.87, 3.92, 0.412),
    PaperRow("Wav2Lip + GAN", "TTS", 7.225, 7.651, 11.15, 3.85, 4.13, 4.05, 0.512),
    PaperRow("Untranslated", "", 7.767, 7.047, None, 4.83, 4.91, None, None),
)

_ALIASES = {
    "unsynced": "Unsynced",
    "unsyncedvideos": "Unsynced",
    "withoutlipsyncing": "Unsynced",
    "laidover": "Unsynced",
    "speech2vid": "Speech2Vid",
    "lipgan": "LipGAN",
    "wav2lip": "Wav2Lip",
    "wav2lipgan": "Wav2Lip + GAN",
    "untranslated": "Untranslated",
    "untranslatedvideos": "Untranslated",
    "real": "Untranslated",
}


def paper_rows(system: str, group: str) -> list[PaperRow]:
    """The paper's rows for a system and a group; all of the system's where the group is none of the paper's.

    Names are compared without case, spaces and signs: `wav2lip_gan` is the paper's "Wav2Lip + GAN (ours)", `real` its
    "Untranslated Videos", `unsynced` its "Unsynced Orig. Videos" and "Without Lip-syncing". An unknown name has none.
    """
    method = _ALIASES.get(_plain(system))
    rows = [row for row in TABLE_2 if row.method == method]
    return [row for row in rows if _plain(row.group) == _plain(group)] or rows


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
