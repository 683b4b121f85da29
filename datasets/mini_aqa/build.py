"""Cut the clips of mini_aqa out of two Debian packages, and write clips.json and NOTICE beside them.

    python datasets/mini_aqa/build.py FOLDER

FOLDER: where sonic-pi-samples and pocketsphinx-testdata are unpacked (`dpkg-deb -x`). Of the first only files are taken
whose own stanza in the copyright file says CC0; the stanza names their source.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from mmrl.sounds import RATE, Sound, cut, load

HERE = Path(__file__).resolve().parent
SONIC = "usr/share/sonic-pi/samples"
SPHINX = "usr/share/pocketsphinx/test/data"
LONGEST, PEAK, FADE = 0.9, 0.7, 0.02  # seconds of an instrument's clip, its loudest sample, seconds of its fading end
SPOKEN = 2.0  # seconds of a piece of speech

# Instrument -> (clips to train on, clips that are held out): no two of both are of one recording.
INSTRUMENTS: dict[str, tuple[str, str]] = {
    "a bass drum": (
        "bd_boom bd_fat bd_gas bd_haus bd_sone bd_tek bd_zum drum_bass_hard",
        "bd_808 bd_pure bd_klub bd_zome",
    ),
    "a snare drum": (
        "drum_snare_hard drum_snare_soft elec_snare elec_hi_snare elec_mid_snare",
        "sn_dolf sn_zome sn_dub",
    ),
    "a cymbal": (
        "drum_cymbal_hard drum_cymbal_soft drum_cymbal_open drum_cymbal_closed drum_splash_hard",
        "elec_cymbal drum_splash_soft drum_cymbal_pedal",
    ),
    "a tom": (
        "drum_tom_lo_hard drum_tom_lo_soft drum_tom_mid_hard drum_tom_mid_soft",
        "drum_tom_hi_hard drum_tom_hi_soft elec_fuzz_tom",
    ),
    "a tabla": (
        "tabla_ghe1 tabla_ghe2 tabla_ghe4 tabla_na tabla_tun1 tabla_tun3 tabla_tas2",
        "tabla_ghe3 tabla_tun2 tabla_na_o",
    ),
    "a bell": ("elec_bell elec_bong perc_bell", "elec_chime elec_triangle"),
    "a bass guitar": ("bass_drop_c bass_hard_c bass_thick_c bass_woodsy_c bass_trance_c", "bass_dnb_f bass_hit_c"),
    "a guitar": ("guit_e_fifths guit_em9", "guit_harmonics guit_e_slide"),
    "a turntable": ("vinyl_backspin vinyl_scratch", "vinyl_rewind"),
}  # fmt: skip
# Of the pieces of a sentence all are of one recording.
SENTENCES = {"0870": "train", "0890": "train", "0920": "train", "0880": "heldout", "0930": "heldout"}
PHRASES = {"001": "train", "004": "train", "002": "heldout", "003": "heldout"}


def main(folder: Path) -> None:
    sources = cc0(folder / "usr/share/doc/sonic-pi-samples/copyright")
    (HERE / "clips").mkdir(exist_ok=True)
    for old in (HERE / "clips").glob("*.flac"):
        old.unlink()
    rows = []
    for name, both in INSTRUMENTS.items():
        for split, files in zip(("train", "heldout"), both):
            for file in files.split():
                author, page = sources[f"{file}.flac"]
                clip = hit(load(folder / SONIC / f"{file}.flac", root=None))
                rows.append(saved(file, clip, name, "instrument", split, page, author, "CC0"))
    for number, split in SENTENCES.items():
        file = f"librivox/sense_and_sensibility_01_austen_64kb-{number}"
        text = transcripts(folder / SPHINX / "librivox/transcription")[Path(file).name]
        for n, piece in enumerate(cut(load(folder / SPHINX / f"{file}.wav", root=None), SPOKEN), 1):
            clip, name = even(piece.samples), f"austen_{number}_{n}"
            rows.append(saved(name, clip, text, "sentence", split, f"{file}.wav", "LibriVox", "BSD-2"))
    for number, split in PHRASES.items():
        text = transcripts(folder / SPHINX / "cards/cards.transcription")[number]
        clip = even(load(folder / SPHINX / f"cards/{number}.wav", root=None).samples)
        rows.append(
            saved(f"cards_{number}", clip, text, "phrase", split, f"cards/{number}.wav", "Alpha Cephei Inc.", "BSD-2")
        )
    (HERE / "clips.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    (HERE / "NOTICE").write_text(notice(rows, folder), encoding="utf-8")


def cc0(copyright_file: Path) -> dict[str, tuple[str, str]]:
    """File -> (author, source) of those whose own stanza says CC0."""
    found = {}
    for stanza in copyright_file.read_text(encoding="utf-8").split("\n\n"):
        told = dict(re.findall(r"^(Files|Copyright|Source|License): +(.+)$", stanza, re.MULTILINE))
        name = re.fullmatch(r"etc/samples/(\S+)", told.get("Files", ""))
        if name and told.get("License") == "CC0" and told.get("Source"):
            found[name[1]] = (told["Copyright"], told["Source"])
    return found


def transcripts(file: Path) -> dict[str, str]:
    """Name of a recording -> what is said."""
    lines = re.findall(r"<s>\s*(.+?)\s*</s>\s*\((.+?)\)", file.read_text(encoding="utf-8"))
    return {name: " ".join(words.split()) for words, name in lines}


def hit(sound: Sound) -> np.ndarray:
    """The clip from where it begins to be heard, with an end that fades."""
    loud = np.abs(sound.samples) > 0.03 * np.abs(sound.samples).max()
    first = int(loud.argmax())
    clip = sound.samples[first : first + int(LONGEST * RATE)].copy()
    fade = min(len(clip), int(FADE * RATE))
    clip[len(clip) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return even(clip)


def even(samples: np.ndarray) -> np.ndarray:
    return samples * np.float32(PEAK / np.abs(samples).max())


def saved(
    file: str, clip: np.ndarray, label: str, kind: str, split: str, family: str, author: str, licence: str
) -> dict[str, object]:
    import soundfile

    soundfile.write(HERE / "clips" / f"{file}.flac", clip, RATE, "PCM_16")
    seconds = round(len(clip) / RATE, 3)
    return {
        "file": f"clips/{file}.flac", "kind": kind, "label": label, "split": split, "family": family,
        "author": author, "licence": licence, "seconds": seconds,
    }  # fmt: skip


def notice(rows: list[dict[str, object]], folder: Path) -> str:
    told = (folder / "usr/share/doc/pocketsphinx-testdata/copyright").read_text(encoding="utf-8")
    stanza = told[told.index("Files: *") :].split("\n\n")[0]
    words = stanza[stanza.index("License: BSD-2") + len("License: BSD-2") :]
    bsd = "\n".join(line.strip().removeprefix(".").strip() for line in words.strip().splitlines())
    holders = re.search(r"^Copyright: (.+?)^License", stanza, re.MULTILINE | re.DOTALL)
    assert holders is not None
    owners = "; ".join(" ".join(line.split()) for line in holders[1].strip().splitlines())
    lines = [f"{r['file']} | {r['licence']} | {r['author']} | {r['family']}" for r in rows]
    return (
        "The clips of mini_aqa are by others. Changed: cut, mixed to one channel, 16 kHz, made equally loud, FLAC.\n\n"
        "CC0: from the Debian package sonic-pi-samples 3.2.2, of whose files only those are here whose own stanza in\n"
        "its copyright file says CC0 (https://creativecommons.org/publicdomain/zero/1.0/); the source is the\n"
        "recording's page.\n\n"
        "BSD-2: from the Debian package pocketsphinx-testdata 0.8. What is read of Sense and Sensibility are LibriVox\n"
        "recordings, which are in the public domain. The package's licence follows the table.\n\n"
        "file | licence | author | source\n" + "\n".join(lines) + f"\n\n---\nCopyright {owners}\n\n{bsd}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
